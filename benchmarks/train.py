"""Fine-tuning against a plain training loop written on diffusers: samples per second, memory.

    python benchmarks/train.py
    python benchmarks/train.py --steps 60 --json
    python benchmarks/train.py --gpu cogvideox-2b cogvideox-5b

On the CPU it is nano, a LoRA of rank 16 and batches of 8: the steps of a short training are taken
off those of a long one, so that loading does not count. With --gpu, on a CUDA device, one step of
each variant at full size with random weights under each option that saves memory, in seconds and in
GB at the peak, beside the estimate of training/finetuning/memory_estimate.py.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# This file's own name would stand before the package's.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402

from benchmarks.measured_process import Measured, measure  # noqa: E402
from cli.nano import convert_nano  # noqa: E402
from training.finetuning.settings import FinetuneSettings  # noqa: E402
from training.nano.zigzag import write_zigzags  # noqa: E402
from weights.variants import Variant, variant_named  # noqa: E402

_CLIPS, _BATCH, _RANK = 16, 8, 16
_SHORT = 5
_MEMORY_STEPS, _MEMORY_BATCH = 5, 64
_ROUNDS = 3
_GPU_STEPS = 3
_GPU_OPTIONS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "LoRA, --checkpointing": {"checkpointing": True},
    "--full --checkpointing": {"full": True, "checkpointing": True},
    "--full --checkpointing --eight-bit-optimizer": {
        "full": True,
        "checkpointing": True,
        "eight_bit_optimizer": True,
    },
}
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
        started = time.perf_counter()
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
print((time.perf_counter() - started) / steps)
"""


def _plain_seconds(folder: Path, data: Path, steps: int, cached: str) -> float:
    """Seconds a step of the plain loop."""
    command = [sys.executable, "-c", _PLAIN, str(folder), str(data), str(steps)]
    command += [str(_BATCH), str(_RANK), cached]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def _command(folder: Path, data: Path, out: Path, **options: object) -> list[str]:
    named = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    arguments = ["train", str(data), str(out), "--base", str(folder), f"--rank={_RANK}"]
    return [sys.executable, "-m", "cli.main", *arguments, "--tracker=none", *named]


def _our_seconds(folder: Path, data: Path, place: Path, steps: int, number: int) -> float:
    """Seconds a step of `cogvideox train` with a cache that is filled."""
    taken = []
    for count in (_SHORT, _SHORT + steps):
        out = place / f"{number}-{count}"
        options = {"steps": count, "batch": _BATCH, "cache": place / "cache", "save_every": 10**6}
        started = time.perf_counter()
        subprocess.run(_command(folder, data, out, **options), check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return (taken[1] - taken[0]) / steps


def _speed(folder: Path, data: Path, place: Path, steps: int) -> dict[str, float]:
    """Median samples per second; in each round every way runs once."""
    _our_seconds(folder, data, place, 1, -1)
    ways: dict[str, Callable[[int], float]] = {
        "cogvideox train": lambda number: _our_seconds(folder, data, place, steps, number),
        "plain loop, latents kept": lambda _: _plain_seconds(folder, data, steps, "cached"),
        "plain loop, encodes each time": lambda _: _plain_seconds(folder, data, steps, "no"),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(_ROUNDS):
        for name, way in ways.items():
            found[name].append(_BATCH / way(number))
    return {name: statistics.median(values) for name, values in found.items()}


def _memory(folder: Path, data: Path, place: Path) -> dict[str, int]:
    """Peak anonymous bytes of a training in large batches."""
    found = {}
    for name, flags in (("kept activations", []), ("--checkpointing", ["--checkpointing"])):
        options = {"steps": _MEMORY_STEPS, "batch": _MEMORY_BATCH, "cache": place / "cache"}
        measured = Measured()
        measure([*_command(folder, data, place / name, **options), *flags], measured)
        found[name] = measured.memory[0]
    return found


def _gpu_rows(variant: Variant) -> list[dict[str, Any]]:
    """Seconds a step and GB at the peak of each option at full size, with random weights."""
    from training.finetuning.memory_estimate import estimate

    rows = []
    for name, changed in _GPU_OPTIONS.items():
        settings = FinetuneSettings(**changed)
        size = {"frames": variant.default_frames, "width": variant.width, "height": variant.height}
        needed = estimate(variant, settings, **size).step / 1e9
        row: dict[str, Any] = {"variant": variant.name, "option": name, "estimated_gb": needed}
        free, _ = torch.cuda.mem_get_info()
        if needed > free / 1e9:
            rows.append(row | {"left_out": f"{free / 1e9:.0f} GB are free"})
            continue
        torch.cuda.reset_peak_memory_stats()
        seconds = _gpu_seconds(variant, settings)
        rows.append(row | {"peak_gb": torch.cuda.max_memory_allocated() / 1e9, "seconds": seconds})
        torch.cuda.empty_cache()
    return rows


def _gpu_seconds(variant: Variant, settings: FinetuneSettings) -> float:
    """Median seconds of a step: forward, backward and optimizer."""
    from diffusers import CogVideoXTransformer3DModel

    from conversion.component_configs import transformer_config
    from training.finetuning.lora import add_lora
    from training.finetuning.objective import Objective, Sample
    from training.finetuning.optimizer import new_optimizer
    from weights.variants import LATENT_CHANNELS, SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION

    device, dtype = torch.device("cuda"), getattr(torch, variant.dtype)
    with torch.device("cuda"):
        config = transformer_config(variant)
        transformer = CogVideoXTransformer3DModel.from_config(config).to(
            torch.float32 if settings.full else dtype
        )
    if not settings.full:
        add_lora(
            transformer,
            rank=settings.rank,
            alpha=settings.alpha,
            targets=settings.targets,
            seed=0,
        )
    if settings.checkpointing:
        transformer.enable_gradient_checkpointing()
    text = torch.randn(variant.text_tokens, variant.text_embed_dim)
    frames = (variant.default_frames - 1) // TEMPORAL_COMPRESSION + 1
    shape = (frames, variant.height // SPATIAL_COMPRESSION, variant.width // SPATIAL_COMPRESSION)
    sample = Sample(moments=torch.randn(2 * LATENT_CHANNELS, *shape), prompt=text, image=None)
    objective = Objective(
        variant=variant,
        config=transformer.config,
        settings=settings,
        empty_prompt=text,
        device=device,
        dtype=dtype,
    )
    trained = [p for p in transformer.parameters() if p.requires_grad]
    optimizer = new_optimizer(trained, settings, device)
    taken = []
    for step in range(_GPU_STEPS + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.autocast("cuda", dtype):
            objective.loss(transformer, [sample], [(0, step, 0)]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def _lines(speed: dict[str, float], memory: dict[str, int]) -> list[str]:
    plain = speed["plain loop, encodes each time"]
    lines = ["| | samples/s | × |", "|---|---|---|"]
    lines += [f"| {name} | {value:.1f} | {value / plain:.2f} |" for name, value in speed.items()]
    lines += ["", f"| batches of {_MEMORY_BATCH} | peak MB |", "|---|---|"]
    return lines + [f"| {name} | {value / 1e6:.0f} |" for name, value in memory.items()]


def _gpu_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| variant | option | s a step | peak GB | estimated |", "|---|---|---|---|---|"]
    for row in rows:
        took = f"{row['seconds']:.2f} | {row['peak_gb']:.1f}" if "seconds" in row else " | "
        lines.append(f"| {row['variant']} | {row['option']} | {took} | {row['estimated_gb']:.1f} |")
    return lines


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
        rows = [row for name in options.gpu for row in _gpu_rows(variant_named(name))]
        print(json.dumps(rows, indent=2) if options.json else "\n".join(_gpu_lines(rows)))
        return
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        folder = convert_nano("nano", place / "checkpoints")
        write_zigzags(place / "data", _CLIPS)
        speed = _speed(folder, place / "data", place, options.steps)
        memory = _memory(folder, place / "data", place)
    if options.json:
        print(json.dumps({"samples_per_second": speed, "peak_bytes": memory}, indent=2))
    else:
        print("\n".join(_lines(speed, memory)))


if __name__ == "__main__":
    main()
