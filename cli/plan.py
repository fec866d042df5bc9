"""Say how a variant would be held in a GPU's memory, and how much each way would take.

Needs no GPU: weights are counted from the headers of a weights folder, or from the numbers of the
variants table. Peaks are estimates, in GB of 10⁹ bytes: see predictors/memory_estimate.py.

With --parallel: the ways to make one video on so many GPUs at once.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cli.generated_table import with_table
from cli.parallel_plan import parallel_plan
from predictors.memory import MARGIN, MemoryPolicy, compute_dtype, memory_policy, usable_memory
from predictors.memory_estimate import (
    PLACEMENTS,
    ComponentSizes,
    Placement,
    VideoSize,
    component_sizes,
    estimated_peak,
    largest_video,
    variant_sizes,
)
from weights.errors import UserError
from weights.folder import check_weights_folder, variant_of
from weights.variants import SPATIAL_COMPRESSION, VARIANTS, Variant, variant_named

EXAMPLES = """examples:
  cogvideox plan --gpu-memory 24
  cogvideox plan cogvideox-5b cogvideox1.5-5b --gpu-memory 16 --quantize int8
  cogvideox plan cogvideox1.5-5b --frames 81 --gpu-memory 24 --json
  cogvideox plan --weights checkpoints/cogvideox-5b
  cogvideox plan --training
  cogvideox plan cogvideox-5b --parallel 4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="default: all of them")
    parser.add_argument(
        "--weights", type=Path, metavar="FOLDER", help="a weights folder instead of a variant"
    )
    parser.add_argument(
        "--gpu-memory",
        type=float,
        metavar="GB",
        help="the card's memory as its maker counts it (24 for an RTX 4090); without it, no choice",
    )
    parser.add_argument("--frames", type=int, help="default: the most that the variant makes")
    parser.add_argument("--width", type=int, help="in pixels (default: the variant's own)")
    parser.add_argument("--height", type=int, help="in pixels (default: the variant's own)")
    parser.add_argument("--quantize", choices=["int8"], help="as COGVIDEOX_QUANTIZE")
    parser.add_argument("--json", action="store_true", help="print every number, in bytes")
    parser.add_argument(
        "--training", action="store_true", help="what fine-tuning each variant needs instead"
    )
    parser.add_argument(
        "--update", type=Path, metavar="FILE", help="with --training: rewrite the table in FILE"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        metavar="N",
        help="how N GPUs can share one video instead (`cogvideox sample --parallel N`)",
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """One variant's row: `peaks` are bytes with VAE tiling and without."""

    variant: Variant
    video: VideoSize
    sizes: ComponentSizes
    peaks: dict[Placement, tuple[int, int]]
    policy: MemoryPolicy | None


def _models(options: argparse.Namespace) -> list[tuple[Variant, ComponentSizes]]:
    int8 = options.quantize == "int8"
    if options.weights is None:
        names = options.variants or VARIANTS
        variants = [variant_named(name) for name in names]
        return [
            (v, variant_sizes(v, compute_dtype(v.dtype, "cuda", int8=int8), int8=int8))
            for v in variants
        ]
    if options.variants:
        raise UserError(
            f"Both --weights and {options.variants[0]} are given.",
            "A weights folder says itself which variant it holds.",
            "Give one of the two.",
        )
    folder = check_weights_folder(options.weights)
    variant = variant_of(folder)
    dtype = compute_dtype(folder.dtype or variant.dtype, "cuda", int8=int8)
    return [(variant, component_sizes(folder.path, variant, dtype, int8=int8))]


def _video(options: argparse.Namespace, variant: Variant) -> VideoSize:
    largest = largest_video(variant)
    frames = largest.frames if options.frames is None else options.frames
    if frames not in variant.legal_frames:
        raise UserError(
            f"--frames is {frames}.",
            f"{variant.name} makes {', '.join(map(str, variant.legal_frames))} frames.",
            "Use one of these, or name the variants that make so many.",
        )
    step = SPATIAL_COMPRESSION * variant.patch_size
    width = largest.width if options.width is None else options.width
    height = largest.height if options.height is None else options.height
    for name, side in (("width", width), ("height", height)):
        if side < step or side % step:
            raise UserError(
                f"--{name} is {side}.",
                f"It must be a multiple of {step} pixels.",
                "Use one, or leave it out for the variant's own.",
            )
    return VideoSize(frames, width, height)


def _available(options: argparse.Namespace) -> int | None:
    if options.gpu_memory is None:
        return None
    if not 0 < options.gpu_memory < 10_000:
        raise UserError(
            f"--gpu-memory is {options.gpu_memory:g}.",
            "The GB of a card are expected.",
            "Write it like 24.",
        )
    return usable_memory(options.gpu_memory)


def _plan(
    variant: Variant, sizes: ComponentSizes, video: VideoSize, available: int | None
) -> _Plan:
    def peak(placement: Placement, tiling: bool) -> int:
        return estimated_peak(variant, sizes, placement, video, vae_tiling=tiling)

    return _Plan(
        variant,
        video,
        sizes,
        {placement: (peak(placement, True), peak(placement, False)) for placement in PLACEMENTS},
        None if available is None else memory_policy(variant, sizes, available, video=video),
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f}"


def _lines(plans: list[_Plan]) -> list[str]:
    lines = [
        f"| variant | video | dtype | weights | {' | '.join(PLACEMENTS)} |",
        "|---|---|---|---|" + "---|" * len(PLACEMENTS),
    ]
    for plan in plans:
        video = plan.video
        peaks = " | ".join(
            f"{_gb(tiled)} ({_gb(untiled)})" for tiled, untiled in plan.peaks.values()
        )
        lines.append(
            f"| {plan.variant.name} | {video.frames} × {video.width}×{video.height} "
            f"| {plan.sizes.dtype} | {_gb(plan.sizes.total)} | {peaks} |"
        )
    lines.append("")
    lines.append("GB, estimated peaks; in brackets without VAE tiling.")
    for plan in plans:
        if plan.policy:
            lines.append(f"{plan.variant.name}: {plan.policy.reason}.")
            lines += [f"  Warning: {plan.policy.warning}"] if plan.policy.warning else []
    return lines


def _document(plan: _Plan) -> dict[str, Any]:
    sizes = plan.sizes
    return {
        "variant": plan.variant.name,
        "video": asdict(plan.video),
        "dtype": sizes.dtype,
        "weights": {
            "transformer": sizes.transformer.total,
            "text_encoder": sizes.text_encoder.total,
            "vae": sizes.vae.total,
        },
        "peaks": {
            placement: {"vae_tiling": tiled, "untiled": untiled}
            for placement, (tiled, untiled) in plan.peaks.items()
        },
        "policy": plan.policy and asdict(plan.policy),
    }


def _training(update: Path | None) -> int:
    """Print what fine-tuning needs, or write it into a guide."""
    from training.finetuning.memory_estimate import memory_table

    if update is None:
        print(memory_table())
        return 0
    text = with_table(update.read_text(encoding="utf-8"), "memory of training", memory_table())
    update.write_text(text, encoding="utf-8")
    return 0


def run(options: argparse.Namespace) -> int:
    if options.training:
        return _training(options.update)
    if options.parallel is not None:
        videos = [(variant, _video(options, variant)) for variant, _ in _models(options)]
        print(parallel_plan(videos, options.parallel, as_json=options.json))
        return 0
    available = _available(options)
    plans = [_plan(v, sizes, _video(options, v), available) for v, sizes in _models(options)]
    if options.json:
        document = {
            "usable_gpu_memory": available,
            "margin": MARGIN,
            "quantize": options.quantize,
            "plans": [_document(plan) for plan in plans],
        }
        print(json.dumps(document, indent=2))
    else:
        print("\n".join(_lines(plans)))
    return 0
