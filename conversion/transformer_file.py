"""A transformer in a checkpoint file: found by prefix, LoRA set apart, variant told."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from conversion.checkpoint import Checkpoint, open_checkpoint
from conversion.detection import Detection, detect
from conversion.lora import Lora, read_lora, split_lora
from conversion.sat_config import SatConfig
from conversion.sat_layout import SatLayout
from conversion.transformer_rules import PREFIX, read_architecture
from weights.errors import UserError
from weights.variants import TEMPORAL_COMPRESSION

_ANCHOR = "mixins.patch_embed.proj.weight"
_POSITIONS = "mixins.pos_embed.pos_embedding"


@dataclass(frozen=True, slots=True)
class TransformerFile:
    """An open transformer checkpoint."""

    file: Checkpoint
    prefix: str
    tensors: Mapping[str, torch.Tensor]
    """The base weights without prefix, by the names they have without a LoRA."""
    lora: Mapping[str, torch.Tensor]
    """SAT's LoRA matrices without prefix; empty where there is none."""
    detection: Detection

    @property
    def path(self) -> Path:
        return self.file.path

    def read_lora(self) -> Lora:
        """The LoRA in this file.

        Raises:
            UserError: there is none, or its modules have different ranks.
        """
        if not self.lora:
            raise UserError(
                f"{self.path} carries no LoRA.",
                "A checkpoint with SAT's matrices (matrix_A, matrix_B) is expected.",
                "For base weights use `cogvideox convert`.",
            )
        a = self.detection.architecture
        return read_lora(self.lora, a.num_layers, a.hidden_size)


def find_prefix(file: Checkpoint, anchor: str, usual: str) -> str | None:
    """The prefix under which a file holds a model, told by one tensor that every such model has.

    Fine-tuned files carry other modules and copies (EMA) beside it: the usual prefix wins, and
    names are never cut by length.

    Raises:
        UserError: several prefixes would do and none is the usual one.
    """
    found = sorted(
        {
            name.removesuffix(anchor)
            for name in file.tensors
            if name == anchor or name.endswith(f".{anchor}")
        }
    )
    if usual in found:
        return usual
    if len(found) > 1:
        raise UserError(
            f"{file.path} holds several models, under {', '.join(found)}.",
            f"One is expected, usually under {usual!r}.",
            "Save the one you mean to a file of its own.",
        )
    return found[0] if found else None


def tensors_under(file: Checkpoint, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under a prefix, by their names without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in file.tensors.items()
        if name.startswith(prefix)
    }


def open_transformer(
    layout: SatLayout, config: SatConfig | None, variant: str | None = None
) -> TransformerFile:
    """Open the transformer of a layout and tell what it is.

    Raises:
        UserError: there is none, the file holds something else, or the variant cannot be told.
    """
    if layout.transformer is None:
        raise UserError(
            f"{layout.root} has no folder transformer/.",
            "A SAT directory with transformer/ and vae/ is expected.",
            "Give the directory that holds both, or the checkpoint file itself.",
        )
    file = open_checkpoint(layout.transformer)
    prefix = find_prefix(file, _ANCHOR, PREFIX)
    if prefix is None:
        raise UserError(
            f"{file.path} has no tensor {PREFIX}{_ANCHOR}, only such as "
            f"{next(iter(file.tensors))}.",
            "A CogVideoX transformer saved by SAT is expected.",
            "Check that it is the right file.",
        )
    base, lora = split_lora(tensors_under(file, prefix))
    shapes = {name: tuple(tensor.shape) for name, tensor in base.items()}
    detection = detect(read_architecture(shapes), config, variant)
    return TransformerFile(file, prefix, base, lora, detection)


def cut_positions(transformer: TransformerFile, frames: int) -> TransformerFile:
    """The same transformer for fewer frames: its learned position table cut.

    SAT takes the first rows of the table, text first and then frame by frame. diffusers would
    silently compute another table for any frame count but the configured one.

    Raises:
        UserError: the variant has no learned table, or the table does not hold so many frames.
    """
    variant = transformer.detection.variant
    if not variant.learned_positions:
        raise UserError(
            f"--frames {frames} was given for {variant.name}.",
            "Only a model with a learned position table (cogvideox-5b-i2v) is cut to a length.",
            "Leave --frames out.",
        )
    possible = range(1, variant.sample_frames + 1, TEMPORAL_COMPRESSION)
    if frames not in possible:
        raise UserError(
            f"--frames is {frames}.",
            f"The table holds {', '.join(map(str, possible))} frames.",
            "Choose one of these.",
        )
    cut = replace(variant, sample_frames=frames)
    table = transformer.tensors[_POSITIONS][:, : cut.position_rows]
    architecture = replace(transformer.detection.architecture, position_rows=cut.position_rows)
    return replace(
        transformer,
        tensors={**transformer.tensors, _POSITIONS: table},
        detection=replace(transformer.detection, variant=cut, architecture=architecture),
    )
