"""What figures depend on besides the code: the card, the processor, the libraries."""

import os
import platform
from importlib.metadata import version

from bench.instruments import card_name
from weights.byte_sizes import shown_size

_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")


def machine() -> dict[str, str]:
    """Names and versions, for the head of a report."""
    import torch

    if torch.cuda.is_available():
        memory = shown_size(torch.cuda.get_device_properties(0).total_memory)
        device = {"GPU": f"{card_name()} with {memory}", "CUDA": str(torch.version.cuda)}
    else:
        device = {"GPU": "none"}
    return {
        **device,
        "CPU": f"{os.cpu_count()} × {platform.machine()}",
        "Python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }
