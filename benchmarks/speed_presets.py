"""The `speed` presets and what else diffusers offers, on nano: work, time and quality.

    python benchmarks/speed_presets.py
    python benchmarks/speed_presets.py --scheduler ddim --prompts 96 --only balanced fast

Each prompt is sampled at every setting in turn, one at a time as the API does it, so that noise of
the machine falls on all alike. "blocks" and "time" are shares of what quality takes, without the
decoding; time is the median of the shares of single prompts. PSNR is against quality's frames,
"right" and "clean" are the tracker's (docs/nano.md). Fewer steps draw other noise and so make other
clips: their PSNR is left out, and their tracker's score is what a preset has to beat.

What may hold for the 42 blocks of 5B: the share of blocks, exactly, where a schedule decides and
not a threshold; that errors of the first and the last steps weigh most; that with dpm, whose steps
add noise, a residual is better reused than an output extrapolated, and with ddim the reverse. What
may not: decibels, thresholds, and the share of time, since much of a step of nano is overhead. Of 4
blocks, the one that FirstBlockCache always computes is a quarter of the work; of 42 it is little.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

# benchmarks/weights.py would stand before the package of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from cli.nano import CHECKPOINTS, convert_nano  # noqa: E402
from predictors.speed import PRESETS, speed_preset  # noqa: E402
from training.nano.models import NANO  # noqa: E402
from training.nano.prompts import combination_of  # noqa: E402
from training.nano.sampling import Task, tasks  # noqa: E402
from training.nano.score import score  # noqa: E402

_SCHEDULERS = {"dpm": "CogVideoXDPMScheduler", "ddim": "CogVideoXDDIMScheduler"}
_DECODE_BATCH = 8


@dataclass
class _Setting:
    """One way to sample, and what it gave for each prompt."""

    steps: int
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    blocks: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    latents: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    setting: str
    blocks: float
    time: float
    psnr: float
    worst_psnr: float
    right: float
    clean: float
    mean_iou: float


@contextmanager
def _cached(pipe: Any, config: Any) -> Iterator[None]:
    pipe.transformer.enable_cache(config)
    try:
        yield
    finally:
        pipe.transformer.disable_cache()


def _settings(pipe: Any, steps: int) -> dict[str, _Setting]:
    """Each name's setting; quality, against which all are measured, comes first."""

    def timestep() -> Any:
        return pipe.current_timestep

    configs = {
        **{
            f"FirstBlockCache {threshold}": diffusers.FirstBlockCacheConfig(threshold=threshold)
            for threshold in (0.08, 0.1, 0.2)
        },
        # The middle of the range that its documentation shows for CogVideoX.
        "PyramidAttentionBroadcast 2": diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(100, 850),
            current_timestep_callback=timestep,
        ),
        "FasterCache": diffusers.FasterCacheConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 681),
            unconditional_batch_skip_range=5,
            unconditional_batch_timestep_skip_range=(-1, 641),
            current_timestep_callback=timestep,
            attention_weight_callback=lambda _: 0.3,
            tensor_format="BFCHW",
        ),
        # Its lite mode alone: of single blocks it would keep 36 GB with 5B.
        **{
            f"TaylorSeer lite {interval}": diffusers.TaylorSeerCacheConfig(
                cache_interval=interval,
                disable_cache_before_step=math.ceil(0.2 * steps),
                disable_cache_after_step=steps - max(1, steps // 10),
                taylor_factors_dtype=torch.float32,
                use_lite_mode=True,
            )
            for interval in (2, 3)
        },
    }
    return {
        "quality": _Setting(steps),
        **{speed: _Setting(steps, partial(speed_preset, pipe, speed, steps)) for speed in PRESETS},
        **{
            f"{fewer} steps": _Setting(fewer)
            for fewer in (round(0.72 * steps), math.ceil(0.5 * steps))
        },
        **{
            name: _Setting(steps, partial(_cached, pipe, config))
            for name, config in configs.items()
        },
    }


@contextmanager
def _counted_blocks(transformer: Any) -> Iterator[list[float]]:
    """Counts blocks that are computed. Attention and feed-forward count for half a block each:
    some caches skip the one and compute the other."""
    halves = [0.0]

    def count(*_: Any) -> None:
        halves[0] += 0.5

    hooks = [
        part.register_forward_hook(count)
        for block in transformer.transformer_blocks
        for part in (block.attn1.to_q, block.ff)
    ]
    yield halves
    for hook in hooks:
        hook.remove()


def _sample(pipe: Any, task: Task, setting: _Setting, options: argparse.Namespace) -> None:
    with _counted_blocks(pipe.transformer) as blocks, setting.context():
        began = time.perf_counter()
        latents = pipe(
            prompt=task.prompt,
            width=NANO.width,
            height=NANO.height,
            num_frames=NANO.default_frames,
            num_inference_steps=setting.steps,
            guidance_scale=options.guidance,
            use_dynamic_cfg=options.scheduler == "dpm",
            max_sequence_length=NANO.text_tokens,
            generator=torch.Generator().manual_seed(task.seed),
            output_type="latent",
        ).frames
        setting.seconds.append(time.perf_counter() - began)
    setting.blocks.append(blocks[0])
    setting.latents.append(latents)


def _decode(pipe: Any, latents: list[torch.Tensor]) -> np.ndarray:
    """The clips, (N, 9, 64, 64, 3) uint8 RGB."""
    clips = []
    with torch.no_grad():
        for batch in torch.cat(latents).split(_DECODE_BATCH):
            video = pipe.decode_latents(batch)
            clips.append(pipe.video_processor.postprocess_video(video, output_type="np"))
    return np.rint(np.concatenate(clips) * 255).astype(np.uint8)


def _psnrs(clips: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """dB for each clip; equal ones count as 99."""
    errors = ((clips.astype(float) - reference) ** 2).mean(axis=(1, 2, 3, 4))
    return np.minimum(10 * np.log10(255**2 / np.maximum(errors, 1e-9)), 99)


def _rows(pipe: Any, asked: list[Task], settings: dict[str, _Setting]) -> Iterator[_Row]:
    quality = settings["quality"]
    reference = _decode(pipe, quality.latents)
    for name, setting in settings.items():
        clips = _decode(pipe, setting.latents)
        psnrs = _psnrs(clips, reference)
        found = score(clips, [combination_of(task.scene) for task in asked])
        shares = [a / b for a, b in zip(setting.seconds, quality.seconds, strict=True)]
        yield _Row(
            setting=name,
            blocks=sum(setting.blocks) / sum(quality.blocks),
            time=statistics.median(shares),
            psnr=float(psnrs.mean()),
            worst_psnr=float(psnrs.min()),
            right=found.right,
            clean=found.clean,
            mean_iou=found.mean_iou,
        )


def _table(rows: list[_Row]) -> str:
    lines = [
        "| setting | blocks | time | PSNR, dB | worst | right | clean | mean IoU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        same_noise = not row.setting.endswith("steps")
        psnr = f"{row.psnr:.1f} | {row.worst_psnr:.1f}" if same_noise else " | "
        lines.append(
            f"| {row.setting} | {row.blocks:.2f} | {row.time:.2f} | {psnr} "
            f"| {row.right:.0%} | {row.clean:.0%} | {row.mean_iou:.3f} |"
        )
    return "\n".join(lines)


def _load(folder: Path, scheduler: str) -> Any:
    diffusers.utils.logging.disable_progress_bar()
    pipe = diffusers.CogVideoXPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = getattr(diffusers, _SCHEDULERS[scheduler]).from_config(pipe.scheduler.config)
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=6.0)
    parser.add_argument("--scheduler", choices=_SCHEDULERS, default="dpm")
    parser.add_argument("--only", nargs="+", metavar="SETTING", help="these, and quality")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    pipe = _load(convert_nano("nano", CHECKPOINTS), options.scheduler)
    asked = tasks(options.prompts, held_out=False, independent_start=False)
    settings = _settings(pipe, options.steps)
    if options.only:
        settings = {name: settings[name] for name in ["quality", *options.only]}
    # The first run of all is slower than those that follow.
    _sample(pipe, asked[0], _Setting(options.steps), options)
    for number, task in enumerate(asked, 1):
        for setting in settings.values():
            _sample(pipe, task, setting, options)
        print(f"{number} of {len(asked)} prompts", file=sys.stderr, flush=True)
    rows = list(_rows(pipe, asked, settings))
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else _table(rows))


if __name__ == "__main__":
    main()
