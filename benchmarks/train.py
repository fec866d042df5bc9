"""Fine-tuning against a plain training loop written on diffusers: samples per second, memory.

    python benchmarks/train.py
    python benchmarks/train.py --steps 60 --json
    python benchmarks/train.py --gpu cogvideox-2b cogvideox-5b

On the CPU it is nano, a LoRA of rank 16 and batches of 8; what comes before the first step has
ended does not count. Where others share the cores, seconds of the processor say more than those of
the clock. Both are of as many threads as torch takes: OMP_NUM_THREADS, or all cores.

With --gpu, on a CUDA device, it is one step of each variant at full size with random weights under
each option that saves memory, in seconds and in GB at the peak, beside the estimate of
training/finetuning/memory_estimate.py.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

# This file's own name would stand before the package's.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402

from benchmarks.measured_process import Measured, measure  # noqa: E402
from benchmarks.training_steps import measured_steps, step_lines  # noqa: E402
from cli.nano import convert_nano  # noqa: E402
from training.nano.zigzag import write_zigzags  # noqa: E402
from weights.variants import variant_named  # noqa: E402

_CLIPS, _BATCH, _RANK = 16, 8, 16
_MEMORY_STEPS, _MEMORY_BATCH = 5, 64
_ROUNDS = 3
_KEPT = "plain loop, latents kept"
# `cogvideox train`, with a look at both clocks after each step.
_OURS = """
import sys, time
from cli.main import main
from training.finetuning.trainer import Trainer

ends, log = [], Trainer._log

def timed(*given):
    log(*given)
    ends.append((time.perf_counter(), time.process_time()))

Trainer._log = timed
assert main(sys.argv[1:]) == 0
print(*((last - first) / (len(ends) - 1) for first, last in zip(ends[0], ends[-1])))
"""
# A training loop as a user of diffusers writes it first: encodes what it needs, or keeps it.
_PLAIN = """
import random, sys, time
from pathlib import Path
import torch
from diffusers import CogVideoXPipeline
from peft import LoraConfig
from predictors.video import read_video

folder, data, steps, batch, rank, cached = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]
steps, batch, rank, cached = int(steps), int(batch), int(rank), cached == "cached"
pipe = CogVideoXPipeline.from_pretrained(folder, dtype=torch.float32)
pipe.transformer.requires_grad_(False)
pipe.transformer.add_adapter(LoraConfig(
    r=rank, lora_alpha=1, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
trained = [p for p in pipe.transformer.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-3)
videos = sorted((data / "videos").iterdir())
prompts = [(data / "labels" / f"{v.stem}.txt").read_text().strip() for v in videos]

@torch.no_grad()
def encode(number):
    frames = torch.from_numpy(read_video(videos[number])[0]).permute(3, 0, 1, 2)[None]
    latents = pipe.vae.encode(frames.float() / 127.5 - 1).latent_dist.sample()
    text = pipe.encode_prompt(
        prompts[number], do_classifier_free_guidance=False, max_sequence_length=16)[0]
    return latents[0].transpose(0, 1) * pipe.vae.config.scaling_factor, text[0]

kept = [encode(number) for number in range(len(videos))] if cached else None
rng = random.Random(0)
started = None
for step in range(steps + 1):
    if step == 1:
        started = time.perf_counter(), time.process_time()
    chosen = [rng.randrange(len(videos)) for _ in range(batch)]
    samples = [kept[n] if cached else encode(n) for n in chosen]
    latents, text = (torch.stack(parts) for parts in zip(*samples))
    noise, t = torch.randn_like(latents), torch.randint(0, 1000, (batch,))
    noisy = pipe.scheduler.add_noise(latents, noise, t)
    target = pipe.scheduler.get_velocity(latents, noise, t)
    predicted = pipe.transformer(noisy, text, t, return_dict=False)[0]
    loss = ((predicted - target) ** 2).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 0.1)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
print((time.perf_counter() - started[0]) / steps, (time.process_time() - started[1]) / steps)
"""


class _Seconds(NamedTuple):
    """Of a step: by the clock, and of the processor."""

    clock: float
    processor: float


def _seconds(command: Sequence[str]) -> _Seconds:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    clock, processor = done.stdout.split()[-2:]
    return _Seconds(float(clock), float(processor))


def _plain_seconds(folder: Path, data: Path, steps: int, cached: str) -> _Seconds:
    """The plain loop's."""
    inputs = [str(folder), str(data), str(steps), str(_BATCH), str(_RANK), cached]
    return _seconds([sys.executable, "-c", _PLAIN, *inputs])


def _arguments(folder: Path, data: Path, out: Path, **options: object) -> list[str]:
    named = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    arguments = ["train", str(data), str(out), "--base", str(folder), f"--rank={_RANK}"]
    return [*arguments, "--tracker=none", *named]


def _our_seconds(folder: Path, data: Path, place: Path, steps: int, number: int) -> _Seconds:
    """Those of `cogvideox train`."""
    options = {"steps": steps + 1, "batch": _BATCH, "cache": place / "cache", "save_every": 10**6}
    arguments = _arguments(folder, data, place / str(number), **options)
    return _seconds([sys.executable, "-c", _OURS, *arguments])


def _speed(folder: Path, data: Path, place: Path, steps: int) -> dict[str, _Seconds]:
    """Median seconds a step; in each round every way runs once."""
    ways: dict[str, Callable[[int], _Seconds]] = {
        "cogvideox train": lambda number: _our_seconds(folder, data, place, steps, number),
        _KEPT: lambda _: _plain_seconds(folder, data, steps, "cached"),
        "plain loop, encodes each time": lambda _: _plain_seconds(folder, data, steps, "no"),
    }
    found: dict[str, list[_Seconds]] = {name: [] for name in ways}
    for number in range(_ROUNDS):
        for name, way in ways.items():
            found[name].append(way(number))
    return {
        name: _Seconds(*map(statistics.median, zip(*taken, strict=True)))
        for name, taken in found.items()
    }


def _memory(folder: Path, data: Path, place: Path) -> dict[str, int]:
    """Peak anonymous bytes of a training in large batches."""
    found = {}
    for name, flags in (("kept activations", []), ("--checkpointing", ["--checkpointing"])):
        options = {"steps": _MEMORY_STEPS, "batch": _MEMORY_BATCH, "cache": place / "cache"}
        measured = Measured()
        command = [sys.executable, "-m", "cli.main"]
        measure([*command, *_arguments(folder, data, place / name, **options), *flags], measured)
        found[name] = measured.memory[0]
    return found


def _lines(speed: dict[str, _Seconds], memory: dict[str, int]) -> list[str]:
    kept = speed[_KEPT]
    lines = [
        "| | samples/s | × | samples per second of the processor | × |",
        "|---|---|---|---|---|",
    ]
    for name, taken in speed.items():
        cells = [
            f"{_BATCH / seconds:.1f} | {plain / seconds:.2f}"
            for seconds, plain in zip(taken, kept, strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| batches of {_MEMORY_BATCH} | peak MB |", "|---|---|"]
    return lines + [f"| {name} | {value / 1e6:.0f} |" for name, value in memory.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--gpu", nargs="+", metavar="VARIANT", help="full size, on a CUDA device")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.gpu:
        if not torch.cuda.is_available():
            raise SystemExit("--gpu needs a CUDA device, and torch finds none here.")
        rows = [row for name in options.gpu for row in measured_steps(variant_named(name))]
        print(json.dumps(rows, indent=2) if options.json else "\n".join(step_lines(rows)))
        return
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        folder = convert_nano("nano", place / "checkpoints")
        write_zigzags(place / "data", _CLIPS)
        speed = _speed(folder, place / "data", place, options.steps)
        memory = _memory(folder, place / "data", place)
    if options.json:
        seconds = {name: taken._asdict() for name, taken in speed.items()}
        document = {"seconds_a_step": seconds, "batch": _BATCH, "peak_bytes": memory}
        print(json.dumps(document, indent=2))
    else:
        print("\n".join(_lines(speed, memory)))


if __name__ == "__main__":
    main()
