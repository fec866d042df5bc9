"""Clips per minute of `cogvideox sample` against a loop of plain diffusers calls.

    python benchmarks/sample.py
    python benchmarks/sample.py --clips 40 --rounds 3 --json

On nano, at the API's default settings, on the CPU. Each case is a process of its own that makes the
same clips from the same prompts and seeds; in each round every case runs once, in turn. Counted is
the time of the whole process, start and encoding of prompts included, and the rate once it runs:
from the fourth file to the last, which leaves the first batch and the start of workers out.

The cases with Ray need the extra `sample`.
"""

import argparse
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

# This file's own name would stand before the package's.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from cli.nano import convert_nano  # noqa: E402

COLOURS = ("red", "green", "blue", "yellow", "cyan", "magenta")
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = ("left", "right", "up", "down")
# The files until the rate counts: as many as the largest batch.
WARM_UP = 4
# What a user would write: a prompt after the other, and each video with PyAV's defaults.
_LOOP = """
import sys, av, torch
from diffusers import CogVideoXPipeline
folder, prompts, out = sys.argv[1:]
pipe = CogVideoXPipeline.from_pretrained(folder, dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
pipe.vae.enable_tiling()
for number, prompt in enumerate(open(prompts).read().splitlines(), 1):
    frames = pipe(
        prompt, width=64, height=64, num_frames=9, num_inference_steps=50, guidance_scale=6,
        use_dynamic_cfg=True, max_sequence_length=16,
        generator=torch.Generator().manual_seed(42 + number), output_type="np",
    ).frames[0]
    with av.open(f"{out}/{number:06}.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for frame in (frames * 255).round().astype("uint8"):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
"""


@dataclass
class Case:
    """A way of making the clips, and its measured runs: seconds of the process, clips a minute."""

    name: str
    options: tuple[str, ...] | None
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def _cases() -> list[Case]:
    cases = [
        Case("a loop of plain diffusers calls", None),
        Case("`cogvideox sample`", ()),
        Case("`cogvideox sample --batch 4`", ("--batch", "4")),
    ]
    if importlib.util.find_spec("ray"):
        cases += [
            Case(f"`cogvideox sample --ray --workers {count}`", ("--ray", "--workers", str(count)))
            for count in (1, 2)
        ]
        cases.append(
            Case(
                "`cogvideox sample --ray --workers 2 --batch 4`",
                ("--ray", "--workers", "2", "--batch", "4"),
            )
        )
    return cases


def _write_prompts(path: Path, count: int) -> None:
    words = itertools.cycle(itertools.product(COLOURS, SHAPES, DIRECTIONS))
    lines = (f"a {c} {s} moving {d}" for c, s, d in itertools.islice(words, count))
    path.write_text("\n".join(lines) + "\n")


def _run(case: Case, folder: Path, prompts: Path, clips: int) -> None:
    with tempfile.TemporaryDirectory() as out:
        if case.options is None:
            command = [sys.executable, "-c", _LOOP, str(folder), str(prompts), out]
        else:
            own = [str(prompts), out, "--weights", str(folder), *case.options]
            command = [sys.executable, "-m", "cli.main", "sample", *own]
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        case.seconds.append(time.perf_counter() - started)
        moments = sorted(path.stat().st_mtime for path in Path(out).glob("*.mp4"))
        if len(moments) != clips:
            raise SystemExit(f"{case.name} made {len(moments)} of {clips} clips.")
        case.rates.append(60 * (clips - WARM_UP) / (moments[-1] - moments[WARM_UP - 1]))


def _results(cases: list[Case]) -> list[dict[str, str | float]]:
    return [
        {
            "case": case.name,
            "seconds": statistics.median(case.seconds),
            "clips_per_minute": statistics.median(case.rates),
        }
        for case in cases
    ]


def _table(cases: list[Case]) -> str:
    basis, *_ = cases
    lines = ["| | s, start included | clips a minute | times the loop |", "|---|---|---|---|"]
    for case in cases:
        rate = statistics.median(case.rates)
        times = rate / statistics.median(basis.rates)
        lines.append(
            f"| {case.name} | {statistics.median(case.seconds):.1f} | {rate:.1f} | {times:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.clips <= WARM_UP:
        parser.error(f"--clips must be more than {WARM_UP}")
    cases = _cases()
    with tempfile.TemporaryDirectory() as directory:
        folder = convert_nano("nano", Path(directory))
        prompts = Path(directory) / "prompts.txt"
        _write_prompts(prompts, options.clips)
        for _ in range(options.rounds):
            for case in cases:
                _run(case, folder, prompts, options.clips)
    if options.json:
        print(json.dumps(_results(cases), indent=2))
    else:
        print(f"{options.clips} clips, medians of {options.rounds}:\n\n{_table(cases)}")


if __name__ == "__main__":
    main()
