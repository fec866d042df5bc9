"""The transformer as a fine-tuning trains it: what learns in float32, the rest frozen."""

from pathlib import Path
from typing import Any

import torch

from training.finetuning.lora import add_lora
from training.finetuning.settings import FinetuneSettings


def load_trainable(folder: Path, settings: FinetuneSettings, dtype: torch.dtype) -> Any:
    """The transformer in `folder`, in training; frozen weights are loaded as `dtype`.

    Raises:
        UserError: a target of the LoRA is no module of a block.
        OSError: there is no transformer in the folder.
    """
    import diffusers

    transformer = diffusers.CogVideoXTransformer3DModel.from_pretrained(
        folder,
        dtype=torch.float32 if settings.full else dtype,
        local_files_only=True,
    )
    return make_trainable(transformer, settings)


def make_trainable(transformer: Any, settings: FinetuneSettings) -> Any:
    """Let all weights learn, or freeze them and put a LoRA in; returns the same transformer.

    Raises:
        UserError: a target of the LoRA is no module of a block.
    """
    if settings.full:
        transformer.requires_grad_(True)
    else:
        add_lora(
            transformer,
            rank=settings.rank,
            alpha=settings.alpha,
            targets=settings.targets,
            seed=settings.seed,
        )
    if settings.checkpointing:
        transformer.enable_gradient_checkpointing()
    return transformer.train()
