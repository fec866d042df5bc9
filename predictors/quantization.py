"""Weights in 8 bits: half the memory of 16, computed in bfloat16.

torchao's weight-only int8, one scale per row, of every linear layer of the transformer and of the
text encoder. The VAE keeps its dtype: it is small, and convolutions are not linear layers.

Products with whole numbers up to 127 are summed up before the scale is applied, which overflows
in float16: hence bfloat16 (predictors/memory.py, compute_dtype). nano's videos against those of
whole weights, four prompts, 25 steps: 50.5 dB on average at guidance 1, 41.2 at 6 (worst 33.9).
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

from weights.errors import UserError

VARIABLE = "COGVIDEOX_QUANTIZE"


def int8_wanted(environment: Mapping[str, str]) -> bool:
    """Whether COGVIDEOX_QUANTIZE asks for int8 weights.

    Raises:
        UserError: it asks for something else, or torchao is not installed.
    """
    value = environment.get(VARIABLE, "")
    if value not in ("", "int8"):
        raise UserError(
            f"{VARIABLE} is {value!r}.",
            "It must be int8, or empty for weights as they are stored.",
            "Correct it or leave it unset.",
        )
    if value and importlib.util.find_spec("torchao") is None:
        raise UserError(
            f"{VARIABLE} is int8, and torchao is not installed.",
            "It is what computes with int8 weights.",
            "Install the project's requirements.txt, or leave the variable unset.",
        )
    return bool(value)


def quantize(pipe: Any, device: str) -> None:
    """Turn the linear layers of `pipe`'s transformer and text encoder into int8, in place.

    Of a pipeline that has only one of them, that one.

    Each is quantised on `device` and comes back to where it was, so that the GPU never holds more
    than one of them.
    """
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    # torchao would otherwise change how the whole process multiplies float32 matrices.
    config = Int8WeightOnlyConfig(set_inductor_config=False)
    for component in filter(None, (pipe.transformer, pipe.text_encoder)):
        linears = [m for m in component.modules() if isinstance(m, torch.nn.Linear)]
        for linear in linears:
            home = linear.weight.device
            quantize_(linear.to(device), config)
            linear.to(home)
