"""The settings of a fine-tuning: what `cogvideox train` takes as options."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from conversion.number_ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE
from training.setting_ranges import SEED, check_ranges

DroppedCaption = Literal["empty", "zeros"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]

# The projections of each block's attention, which is what SAT's LoRA changes.
SAT_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")

_RANGES = {
    "steps": COUNT,
    "batch": COUNT,
    "accumulate": COUNT,
    "learning_rate": POSITIVE,
    "warmup_steps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "clip_norm": POSITIVE,
    "caption_dropout": SHARE,
    "image_dropout": SHARE,
    "ema_decay": SHARE,
    "rank": COUNT,
    "alpha": POSITIVE,
    "save_every": COUNT,
    "validate_every": NOT_NEGATIVE,
    "seed": SEED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneSettings:
    """How to train; the defaults are those of SAT's `sft.yaml`, for a LoRA.

    Raises:
        UserError: a number makes no sense.
    """

    full: bool = False
    """Train all weights of the transformer and not a LoRA."""

    rank: int = 128
    alpha: float = 1.0
    """The LoRA acts with alpha / rank; SAT's alpha is 1 whatever the rank."""
    targets: tuple[str, ...] = SAT_TARGETS

    steps: int = 1000
    batch: int = 1
    """Clips per process and forward pass."""
    accumulate: int = 1
    """Forward passes per step."""

    learning_rate: float = 1e-3
    lr_schedule: str = "constant_with_warmup"
    warmup_steps: int = 0
    lr_options: Mapping[str, Any] = field(default_factory=dict)
    """What `lr_schedule` takes besides: see training.lr_schedules."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    clip_norm: float = 0.1
    eight_bit_optimizer: bool = False
    ema_decay: float = 0.0
    """Of the moving average that becomes the result; 0: the last weights do."""

    caption_dropout: float = 0.1
    dropped_caption: DroppedCaption = "empty"
    """What stands for a dropped caption: the empty prompt, as diffusers samples, or SAT's zeros."""
    image_dropout: float = 0.05
    """How often image-to-video trains without its image."""

    precision: Precision = "auto"
    """What the transformer computes in; auto: the variant's own dtype, float32 on a CPU."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    vae_tiling: bool = False
    """Encode clips in tiles, to somewhat other latents: see training.finetuning.encoders."""

    save_every: int = 500
    validate_every: int = 0
    """Steps between validation clips; 0: none."""
    validation_prompts: tuple[str, ...] = ()
    seed: int = 42

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
