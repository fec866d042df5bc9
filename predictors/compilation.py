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

    Args:
        backend: what torch.compile takes as its backend.
    """
    import torch

    torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
    # diffusers 0.42 knows this of most transformers; of CogVideoX's not.
    transformer._repeated_blocks = ["CogVideoXBlock"]
    transformer.compile_repeated_blocks(backend=backend)


def _has_compiler(environment: Mapping[str, str]) -> bool:
    path = environment.get("PATH", os.defpath)
    return any(
        shutil.which(name, path=path) for name in (environment.get("CC"), "gcc", "clang") if name
    )
