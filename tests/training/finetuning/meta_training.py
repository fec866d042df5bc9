"""A training step of full-size models without weights, and the memory that it would take on a GPU.

As in tests/predictors/meta_models.py tensors have a size and no content. No autocast is there for
such tensors; its rules on CUDA are followed here (torch's `autocast_mode.h`, the lists of
operations that it knows, as far as the transformer uses them).
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from tests.predictors.meta_models import PeakMemory, meta_transformer
from training.finetuning.trainable import make_trainable
from training.finetuning.training_memory import TrainingPlan

_IN_16_BITS = (functional.linear, functional.conv2d, torch.conv2d)


class _FlashAttention(torch.autograd.Function):
    """Keeps what the fused kernel keeps, and takes what its backward pass takes."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Any:
        attended = torch.empty_like(query)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, attended, sums)
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        query, key, value, _, _ = ctx.saved_tensors
        summed_up = torch.empty(query.shape, dtype=torch.float32, device=query.device)
        gradients = [torch.empty_like(tensor) for tensor in (query, key, value)]
        del summed_up
        return tuple(gradients)


class _CudaRules(TorchFunctionMode):
    """Autocast to `dtype`, or none, and attention in one kernel.

    Copies of float32 parameters in training are kept if `keeps` is true.
    """

    def __init__(self, dtype: torch.dtype | None, *, keeps: bool) -> None:
        super().__init__()
        self._dtype, self._keeps = dtype, keeps
        self._copies: dict[int, torch.Tensor] = {}

    def forget(self) -> None:
        self._copies.clear()
        self._keeps = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return _FlashAttention.apply(*map(self._cast, args[:3]))
        cast: Callable[[Any], Any] | None = None
        if self._dtype and func in _IN_16_BITS:
            cast = self._cast
        elif self._dtype and func is functional.layer_norm:
            cast = _float
        if cast:
            args = tuple(map(cast, args))
            kwargs = {name: cast(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or self._dtype in (None, value.dtype):
            return value
        if not (self._keeps and value.is_leaf and value.requires_grad):
            return value.to(self._dtype)
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(self._dtype)
        return self._copies[id(value)]


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value


def meta_model(plan: TrainingPlan) -> Any:
    """The transformer, ready to be trained."""
    settings, dtype = plan.settings, getattr(torch, plan.dtype)
    model = meta_transformer(plan.variant, torch.float32 if settings.full else dtype)
    # `step_memory` turns checkpointing on in its own way.
    return make_trainable(model, replace(settings, checkpointing=False))


def step_memory(plan: TrainingPlan) -> int:
    """The most bytes at once of a forward and a backward pass, without weights and optimizer."""
    model, dtype = meta_model(plan), getattr(torch, plan.dtype)
    autocast = dtype if plan.mixed else None
    rules = _CudaRules(autocast, keeps=True)

    def again(module: Any, *given: Any) -> Any:
        contexts = nullcontext(), _CudaRules(autocast, keeps=False)
        return checkpoint(module.__call__, *given, use_reentrant=False, context_fn=lambda: contexts)

    if plan.settings.checkpointing:
        model.enable_gradient_checkpointing(again)
    with PeakMemory(model) as memory, rules:
        predicted = model(**_inputs(plan, dtype), return_dict=False)[0].float()
        target = torch.empty_like(predicted, dtype=torch.float32)
        loss = ((predicted - target) ** 2).flatten(1).mean()
        rules.forget()
        torch.autograd.backward([loss])
    return memory.peak


def sampling_peak(plan: TrainingPlan) -> int:
    """The most bytes at once of the two passes of a step of sampling, without weights."""
    model, dtype = meta_model(plan), getattr(torch, plan.dtype)
    rules = _CudaRules(dtype if plan.mixed else None, keeps=True)
    with torch.no_grad(), PeakMemory(model) as memory, rules:
        model(**_inputs(plan, dtype, clips=2), return_dict=False)
    return memory.peak


def _inputs(plan: TrainingPlan, dtype: torch.dtype, clips: int | None = None) -> dict[str, Any]:
    variant, batch = plan.variant, clips or plan.settings.batch
    padded = variant.patch_size_t or 1
    frames = -(-((plan.frames - 1) // 4 + 1) // padded) * padded
    rotary = torch.empty(plan.tokens - variant.text_tokens, 64, device="meta")
    options = {"device": "meta", "dtype": dtype}
    return {
        "hidden_states": torch.empty(
            batch, frames, variant.in_channels, plan.height // 8, plan.width // 8, **options
        ),
        "encoder_hidden_states": torch.empty(
            batch, variant.text_tokens, variant.text_embed_dim, **options
        ),
        "timestep": torch.empty(batch, dtype=torch.int64, device="meta"),
        "ofs": torch.empty(1, **options) if variant.ofs_embed_dim else None,
        "image_rotary_emb": (rotary, rotary) if variant.rotary else None,
    }
