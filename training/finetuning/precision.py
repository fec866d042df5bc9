"""What a fine-tuning computes in, and what accelerate calls it."""

from typing import Literal

import torch

from training.finetuning.settings import Precision
from weights.errors import UserError
from weights.variants import Variant

MixedPrecision = Literal["no", "bf16", "fp16"]

_OF_VARIANT: dict[str, Precision] = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def precision_for(wanted: Precision, variant: Variant, device: torch.device) -> Precision:
    """`wanted`, or where that is auto the variant's own dtype; float32 on a CPU.

    Raises:
        UserError: fp16 is wanted on a CPU, where gradients can't be scaled.
    """
    if wanted == "auto":
        return "fp32" if device.type == "cpu" else _OF_VARIANT[variant.dtype]
    if wanted == "fp16" and device.type == "cpu":
        raise UserError(
            "--precision fp16 is asked for on a CPU.",
            "fp16 needs a GPU; a CPU computes in bf16 or fp32.",
            "Leave --precision out.",
        )
    return wanted


def dtype_of(precision: Precision) -> torch.dtype:
    """The dtype of the frozen weights."""
    return _DTYPES[precision]


def mixed_precision(precision: Precision) -> MixedPrecision:
    """What accelerate casts computations to; trainable weights stay in float32."""
    return "no" if precision == "fp32" else precision  # type: ignore[return-value]
