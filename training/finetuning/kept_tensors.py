"""Cached tensors that stay in memory once they were read, as far as there is room."""

import torch

from training.finetuning.cached_tensors import CachedTensor

# In each process. About 80 clips of 49 frames of 720×480 and their prompts, in 16 bits.
LIMIT_BYTES = 512 << 20


class KeptTensors:
    """Reads cached tensors, and keeps the first `limit_bytes` of them.

    What came first stays. An epoch reads everything once: to drop what was read longest ago would
    be to drop what is wanted next.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._room = limit_bytes
        self._kept: dict[CachedTensor, torch.Tensor] = {}

    def read(self, entry: CachedTensor) -> torch.Tensor:
        """The tensor, on the CPU; it may be shared, and is not to be written to.

        Raises:
            OperationError: see `CachedTensor.read`.
        """
        if entry in self._kept:
            return self._kept[entry]
        tensor = entry.read()
        if entry.size <= self._room:
            self._room -= entry.size
            self._kept[entry] = tensor
        return tensor
