"""Our encoding against diffusers' `export_to_video`: time as a multiple of it, bytes, PSNR.

    pip install imageio imageio-ffmpeg     # what export_to_video needs; we do not
    python benchmarks/encoding.py --rounds 5

49 frames of 720x480, made here: gradients and a textured disc that move, with film-like grain. In
each round every encoder writes them once, in turn; a time is the median over the rounds of its
ratio to export_to_video in the same round. export_to_video gets what a user passes it, floats from
0 to 1, and we get what `decode` returns, bytes: to go from one to the other is in its time, and in
ours as well. What a player that heeds the file's tags shows is compared with the bytes.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

# benchmarks/weights.py would stand before the package of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from predictors.video import (  # noqa: E402
    DEFAULT_QUALITY,
    OUTPUT_FORMATS,
    OutputFormat,
    read_video,
    write_video,
)

FPS = 8
BASELINE = "export_to_video, default"

Encoder = Callable[[np.ndarray, Path], object]


@dataclass(frozen=True)
class Measured:
    """Medians over the rounds; `times_baseline` is of ratios taken within a round."""

    seconds: float
    times_baseline: float
    bytes: int
    psnr: float


def synthetic_video(count: int = 49, height: int = 480, width: int = 720) -> np.ndarray:
    """(frames, height, width, 3) floats from 0 to 1."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = np.empty((count, height, width, 3), np.float32)
    for index, moment in enumerate(np.linspace(0, 1, count)):
        waves = [x / 97 + 3 * moment, y / 71 - 4 * moment, (x + y) / 143 + 2 * moment]
        background = 0.5 + 0.3 * np.sin(np.stack(waves, -1))
        from_left = x - width * (0.2 + 0.6 * moment)
        from_top = y - height * (0.5 + 0.2 * np.sin(6 * moment))
        weave = np.sin(from_left / 5) * np.sin(from_top / 7)
        disc = np.clip((90 - np.hypot(from_left, from_top)) / 3, 0, 1)[..., None]
        texture = np.array([0.8, 0.35, 0.15]) + 0.2 * weave[..., None]
        grain = random.normal(0, 0.008, (height, width, 1))
        frames[index] = background * (1 - disc) + texture * disc + grain
    return frames.clip(0, 1)


def _export_to_video(quality: float, frames: np.ndarray, path: Path) -> None:
    from diffusers.utils import export_to_video

    export_to_video(list(frames), str(path), fps=FPS, quality=quality)


def _write_video(output_format: OutputFormat, quality: int, frames: np.ndarray, path: Path) -> None:
    pixels = np.empty(frames.shape, np.uint8)
    for index, image in enumerate(frames):
        pixels[index] = np.rint(image * 255)
    write_video(pixels, path, fps=FPS, output_format=output_format, quality=quality)


def _encoders() -> dict[str, tuple[str, Encoder]]:
    """Every encoder with the suffix of its file."""
    encoders: dict[str, tuple[str, Encoder]] = {
        BASELINE: (".mp4", partial(_export_to_video, 5.0)),
        "export_to_video, quality 9": (".mp4", partial(_export_to_video, 9.0)),
    }
    for output_format in OUTPUT_FORMATS:
        for quality in (40, DEFAULT_QUALITY, 100):
            default = " (default)" if quality == DEFAULT_QUALITY else ""
            encoders[f"{output_format}, quality {quality}{default}"] = (
                f".{output_format}",
                partial(_write_video, output_format, quality),
            )
    return encoders


def _psnr(pixels: np.ndarray, path: Path) -> float:
    shown, _ = read_video(path)
    errors = [
        np.mean((one.astype(np.float32) - other) ** 2)
        for one, other in zip(pixels, shown, strict=True)
    ]
    return float(10 * np.log10(255**2 / np.mean(errors)))


def measure(rounds: int, frames: np.ndarray, folder: Path) -> dict[str, Measured]:
    encoders = _encoders()
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for number in range(rounds):
        for index, (name, (suffix, encode)) in enumerate(encoders.items()):
            print(f"round {number + 1}, {name}", file=sys.stderr)
            started = time.perf_counter()
            encode(frames, folder / f"{index}{suffix}")
            seconds[name].append(time.perf_counter() - started)
    pixels = np.rint(frames * 255).astype(np.uint8)
    measured = {}
    for index, (name, (suffix, _)) in enumerate(encoders.items()):
        path = folder / f"{index}{suffix}"
        pairs = zip(seconds[name], seconds[BASELINE], strict=True)
        measured[name] = Measured(
            seconds=statistics.median(seconds[name]),
            times_baseline=statistics.median(own / other for own, other in pairs),
            bytes=path.stat().st_size,
            psnr=_psnr(pixels, path),
        )
    return measured


def _table(measured: dict[str, Measured]) -> str:
    lines = [
        "| encoder | s | times export_to_video | kB | PSNR, dB |",
        "|---|---|---|---|---|",
    ]
    for name, found in measured.items():
        lines.append(
            f"| {name} | {found.seconds:.2f} | {found.times_baseline:.2f} "
            f"| {found.bytes / 1e3:,.0f} | {found.psnr:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(options.rounds, synthetic_video(), Path(folder))
    if options.json:
        print(json.dumps({name: asdict(found) for name, found in measured.items()}))
    else:
        print(_table(measured))


if __name__ == "__main__":
    main()
