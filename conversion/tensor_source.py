"""Where the rows of planned tensors come from: a file as it is, or a file with its LoRA added."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch


class TensorSource(Protocol):
    """Named tensors that are read a few rows at a time."""

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that `rows` gives."""

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` along dimension 0 of the tensor `name`."""


@dataclass(frozen=True, slots=True)
class FileTensors:
    """Tensors of an open file, as they are."""

    tensors: Mapping[str, torch.Tensor]

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensors[name][start:stop]


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """The LoRA of one weight: for each of its equal chunks along dimension 0 a pair (A, B).

    A is (rank, columns) and B (rows of the chunk, rank).
    """

    pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...]


@dataclass(frozen=True, slots=True)
class MergedLora:
    """Tensors of an open file with scale · B·A added to the weights that carry a LoRA.

    SAT computes W·x + (alpha / rank)·B·A·x (SwissArmyTransformer, `model/finetune/lora2.py`). The
    sum is made in float32 and rounded once, to the dtype of the weight.
    """

    tensors: Mapping[str, torch.Tensor]
    factors: Mapping[str, LoraFactors]
    scale: float

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        base = self.tensors[name][start:stop]
        if name not in self.factors:
            return base
        # A copy even where it is float32 already: `base` is a view of the file.
        merged = base.to(torch.float32, copy=True)
        first = 0
        for a, b in self.factors[name].pairs:
            low, high = max(start, first), min(stop, first + b.shape[0])
            if low < high:
                update = b[low - first : high - first].float() @ a.float()
                merged[low - start : high - start] += self.scale * update
            first += b.shape[0]
        return merged.to(base.dtype)
