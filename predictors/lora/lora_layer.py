"""A module of the transformer with a LoRA beside it."""

from typing import Any

import torch
from torch.nn import functional

from predictors.lora.adapter_file import LoraPair


class LoraLayer(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Stands in for `base`, a linear layer or a convolution, and adds scale · B·A·x to its output.

    The matrices are plain attributes, neither parameters nor buffers: offloading moves those it
    knew when it was set up and fails on others. They follow the input's device and dtype instead,
    once, when the layer first runs.

    Computes what PEFT's LoRA layer computes, in the same order, so that the results are the same
    bit for bit (`peft/tuners/lora/layer.py`).
    """

    def __init__(self, base: Any, pair: LoraPair, scale: float) -> None:
        super().__init__()
        self.base = base
        self.a, self.b = pair.a, pair.b
        # A tensor, because torch.compile would compile once more for every other Python number.
        self.scale = torch.tensor(pair.scale * scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.a.device != x.device or self.a.dtype != x.dtype:
            self.a, self.b = self.a.to(x), self.b.to(x)
        return self.base(x) + self._change(x) * self.scale

    def _change(self, x: torch.Tensor) -> torch.Tensor:
        if self.a.dim() == 2:
            return functional.linear(functional.linear(x, self.a), self.b)
        narrow = functional.conv2d(x, self.a, stride=self.base.stride, padding=self.base.padding)
        return functional.conv2d(narrow, self.b)
