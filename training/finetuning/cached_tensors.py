"""Tensors kept on disk: files that are whole or not there, each with one tensor."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from weights.atomic import replacing
from weights.errors import OperationError, UserError
from weights.safetensors_header import read_header

_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedTensor:
    """The file of a tensor that is there or is to be made: `path` holds it under `name`."""

    path: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The bytes of the tensor."""
        return math.prod(self.shape) * int(self.dtype.itemsize)

    def is_whole(self) -> bool:
        """Whether the file is there, of the length its header says, and has such a tensor."""
        try:
            entries = read_header(self.path)
        except UserError:
            return False
        found = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
        return found == {self.name: (_NAMES[self.dtype], self.shape)}

    def write(self, tensor: torch.Tensor) -> None:
        """Store the tensor; the file appears when it is complete.

        Raises:
            OSError: it can't be written.
        """
        from safetensors.torch import save

        assert (tensor.dtype, tuple(tensor.shape)) == (self.dtype, self.shape)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            file.write(save({self.name: tensor.contiguous().cpu()}))

    def read(self) -> torch.Tensor:
        """The tensor, on the CPU.

        Raises:
            OperationError: the file was damaged since it was written; it is removed.
        """
        from safetensors.torch import load_file

        tensor = load_file(self.path)[self.name] if self.is_whole() else None
        if tensor is not None and bool(torch.isfinite(tensor).all()):
            return tensor
        self.path.unlink(missing_ok=True)
        raise OperationError(
            f"The cached {self.path} is damaged.",
            f"{self.name} of the shape {self.shape}, all finite, is expected there.",
            "It was removed: start again, and it will be made anew.",
        )
