"""A trained LoRA as the one file that diffusers and our server load at its trained strength."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from conversion.rules import Piece, PlannedTensor
from conversion.safetensors_writer import Cast, plan_shards, write_shard
from conversion.tensor_source import FileTensors
from training.finetuning.lora import block_targets, short_names
from weights.atomic import replacing
from weights.errors import OperationError
from weights.variants import variant_named

# diffusers' `save_lora_weights` sets it before the names of the transformer's matrices and of the
# adapter's settings.
_PREFIX = "transformer."


def training_metadata(
    settings: Mapping[str, Any], trigger_prompts: Sequence[str]
) -> dict[str, str]:
    """What a file says of its training, for the argument `extra` of `save_lora`: both as JSON."""
    return {
        "settings": json.dumps(settings, sort_keys=True, default=str),
        "trigger_prompts": json.dumps(list(trigger_prompts)),
    }


def save_lora(
    state: Mapping[str, torch.Tensor],
    path: Path,
    *,
    variant: str,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    extra: Mapping[str, str],
) -> None:
    """Write a LoRA; plain `pipe.load_lora_weights(path)` takes the file.

    The metadata say alpha and rank, so that scale 1.0 means "as trained", and the base's variant.
    The same LoRA always gives the same bytes: safetensors' own writer has no order of metadata.

    Args:
        state: from `adapter_state`, on any device; matrices keep their dtype.
        path: the file; it is replaced when the new one is complete.
        extra: further metadata, such as `training_metadata`.

    Raises:
        UserError: a target is no module of a block, or there is no such variant.
        OperationError: the training has made a value infinite or NaN; nothing is written.
    """
    adapter = {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": short_names(block_targets(targets)),
    }
    metadata = {
        **extra,
        "lora_adapter_metadata": json.dumps(
            {_PREFIX + name: value for name, value in adapter.items()}, sort_keys=True
        ),
        "tool": "cog-cogvideox",
        "variant": variant_named(variant).name,
        "version": version("cog-cogvideox"),
    }
    tensors = {_PREFIX + name: tensor.detach().to("cpu") for name, tensor in state.items()}
    check_finite(tensors)
    source = FileTensors(tensors)
    total = sum(tensor.nbytes for tensor in tensors.values())
    # An adapter is one file, however large.
    (shard,) = plan_shards(planned_as_they_are(tensors), source, Cast(), total)
    with replacing(path) as file:
        write_shard(file, shard, source, metadata=dict(sorted(metadata.items())))


def planned_as_they_are(tensors: Mapping[str, torch.Tensor]) -> list[PlannedTensor]:
    """The plan that writes every tensor whole, under its own name."""
    return [
        PlannedTensor(name, tuple(tensor.shape), (Piece(name, 0, tensor.shape[0]),))
        for name, tensor in tensors.items()
    ]


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Check that a training ended with numbers.

    Raises:
        OperationError: a value is infinite or NaN.
    """
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise OperationError(
            f"The training made values of {bad[0]}{more} infinite or NaN.",
            "Finite numbers are expected.",
            "Train again with a lower learning rate, or go on from an earlier checkpoint.",
        )
