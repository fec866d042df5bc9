"""`torch.compile` of the transformer's blocks."""

import os
import shutil
from collections.abc import Mapping
from typing import Any

from weights.errors import UserError

VARIABLE = "COGVIDEOX_COMPILE"

# Each size of video, each LoRA and each speed preset is compiled once more; past torch's default of
# eight it would silently go back to eager.
_RECOMPILE_LIMIT = 64


def compile_wanted(environment: Mapping[str, str]) -> bool:
    """Whether COGVIDEOX_COMPILE asks for compiled blocks.

    Raises:
        UserError: it is neither 0 nor 1, or there is no C compiler.
    """
    value = environment.get(VARIABLE) or "0"
    if value not in ("0", "1"):
        raise UserError(
            f"{VARIABLE} is {value!r}.", "It must be 0 or 1.", "Correct it or leave it unset."
        )
    if value == "1" and not _has_compiler(environment):
        raise UserError(
            f"{VARIABLE} is 1, and there is no C compiler.",
            "torch.compile builds code while it runs, with gcc or clang.",
            "Install gcc and g++, or leave the variable unset.",
        )
    return value == "1"


def compile_blocks(transformer: Any, backend: Any = "inductor") -> None:
    """Have the transformer's blocks compiled when they first run. They are alike and share code.

    To be called before hooks are put on the blocks (group offload, the speed presets): it is their
    `forward` that is compiled, so that hooks stay around it. diffusers' `compile_repeated_blocks`
    compiles the call with its hooks, which those of the presets' cache forbid: it would run eager.

    Args:
        backend: what torch.compile takes as its backend.
    """
    import torch

    torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
    for block in transformer.transformer_blocks:
        block.forward = torch.compile(block.forward, backend=backend)


def _has_compiler(environment: Mapping[str, str]) -> bool:
    path = environment.get("PATH", os.defpath)
    return any(
        shutil.which(name, path=path) for name in (environment.get("CC"), "gcc", "clang") if name
    )
