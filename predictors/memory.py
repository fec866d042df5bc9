"""Where the pipeline's parts lie while it runs, decided once at setup."""

from dataclasses import dataclass
from typing import Literal

from weights.variants import Dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPolicy:
    """How to hold a pipeline in memory. `dtype` None means the one the weights are stored in."""

    device: Literal["cuda", "cpu"]
    model_offload: bool
    vae_tiling: bool
    dtype: Dtype | None


def memory_policy(cuda_available: bool) -> MemoryPolicy:
    """The policy for this machine.

    With CUDA each part visits the GPU only while it works, so that a 5B model fits into 19 GB.
    Without, everything is float32: CPUs lack float16 kernels for some of the layers.
    """
    if cuda_available:
        return MemoryPolicy(device="cuda", model_offload=True, vae_tiling=True, dtype=None)
    return MemoryPolicy(device="cpu", model_offload=False, vae_tiling=True, dtype="float32")
