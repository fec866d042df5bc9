"""Training steps at full size on a CUDA device, with random weights: seconds and GB at the peak."""

import gc
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from training.finetuning.memory_estimate import estimate
from training.finetuning.settings import FinetuneSettings
from weights.variants import LATENT_CHANNELS, SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, Variant

_STEPS = 3
_OPTIONS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "LoRA, --checkpointing": {"checkpointing": True},
    "--full --checkpointing": {"full": True, "checkpointing": True},
    "--full --checkpointing --eight-bit-optimizer": {
        "full": True,
        "checkpointing": True,
        "eight_bit_optimizer": True,
    },
}


def measured_steps(variant: Variant) -> list[dict[str, Any]]:
    """Seconds a step and GB at the peak of each option at full size, with random weights."""
    rows = []
    for name, changed in _OPTIONS.items():
        settings = FinetuneSettings(**changed)
        size = {"frames": variant.default_frames, "width": variant.width, "height": variant.height}
        needed = estimate(variant, settings, **size).step / 1e9
        row: dict[str, Any] = {"variant": variant.name, "option": name, "estimated_gb": needed}
        free, _ = torch.cuda.mem_get_info()
        if needed > free / 1e9:
            rows.append(row | {"left_out": f"{free / 1e9:.0f} GB are free"})
            continue
        seconds = _seconds(variant, settings)
        rows.append(row | {"peak_gb": torch.cuda.max_memory_allocated() / 1e9, "seconds": seconds})
        # Models of diffusers hold references to themselves.
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def _seconds(variant: Variant, settings: FinetuneSettings) -> float:
    """Median seconds of a step: forward, backward and optimizer.

    The peak of memory is counted from where the model has its dtype.
    """
    from diffusers import CogVideoXTransformer3DModel

    from conversion.component_configs import transformer_config
    from training.finetuning.objective import Objective, Sample
    from training.finetuning.optimizer import new_optimizer
    from training.finetuning.trainable import make_trainable

    device, dtype = torch.device("cuda"), getattr(torch, variant.dtype)
    with torch.device("cuda"):
        config = transformer_config(variant)
        random = CogVideoXTransformer3DModel.from_config(config)
    random.to(torch.float32 if settings.full else dtype)
    transformer = make_trainable(random, settings)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
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
    for step in range(_STEPS + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.autocast("cuda", dtype):
            objective.loss(transformer, [sample], [(0, step, 0)]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def step_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The same as a Markdown table."""
    lines = ["| variant | option | s a step | peak GB | estimated |", "|---|---|---|---|---|"]
    for row in rows:
        took = f"{row['seconds']:.2f} | {row['peak_gb']:.1f}" if "seconds" in row else " | "
        lines.append(f"| {row['variant']} | {row['option']} | {took} | {row['estimated_gb']:.1f} |")
    return lines
