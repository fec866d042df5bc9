"""Everything about a conversion that is decided before the first byte is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from conversion import transformer_rules, vae_rules
from conversion.checkpoint import Checkpoint, open_checkpoint
from conversion.component_configs import (
    Config,
    model_index,
    scheduler_config,
    transformer_config,
    vae_config,
)
from conversion.detection import Detection, detect
from conversion.rules import Plan, plan_forward
from conversion.safetensors_writer import planned_bytes
from conversion.sat_config import read_sat_config
from conversion.sat_layout import SatLayout, locate
from conversion.text_encoder import (
    TextEncoder,
    find_text_encoder,
    missing_text_encoder_advice,
    read_text_encoder,
)
from weights.errors import UserError
from weights.variants import Variant

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """One model of the folder: where its tensors come from and what becomes of them."""

    folder: str
    file: Checkpoint
    prefix: str
    plan: Plan

    @property
    def source(self) -> Mapping[str, torch.Tensor]:
        """The file's tensors by the names that the plan uses."""
        return {
            name.removeprefix(self.prefix): tensor
            for name, tensor in self.file.tensors.items()
            if name.startswith(self.prefix)
        }

    @property
    def left_out(self) -> list[str]:
        """What the file holds beside, by its name in the file."""
        outside = [name for name in self.file.tensors if not name.startswith(self.prefix)]
        dropped = [self.prefix + name for name in self.plan.left_out]
        return [*dropped, *outside, *self.file.other_entries]


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """What becomes of a SAT model."""

    detection: Detection
    models: tuple[PlannedModel, ...]
    configs: Mapping[str, Config]
    """JSON files by their path in the folder."""
    text_encoder: TextEncoder | None
    dtype: torch.dtype | None
    notes: tuple[str, ...]
    """What the user should know, such as a missing text encoder."""

    @property
    def total_bytes(self) -> int:
        """Bytes of tensor data to write, the text encoder's not counted."""
        return sum(planned_bytes(m.plan.tensors, m.source, self.dtype) for m in self.models)

    @property
    def folder_dtype(self) -> str:
        """The dtype the folder is meant to be loaded in, by its torch name: the transformer's."""
        transformer = self.models[0]
        first = transformer.plan.tensors[0].pieces[0].name
        dtype = self.dtype or transformer.source[first].dtype
        return str(dtype).removeprefix("torch.")


def open_transformer(layout: SatLayout) -> Checkpoint:
    """Open the transformer of a layout and check that it is one.

    Raises:
        UserError: there is none, or the file holds something else.
    """
    if layout.transformer is None:
        raise UserError(
            f"{layout.root} has no folder transformer/.",
            "A SAT directory with transformer/ and vae/ is expected.",
            "Give the directory that holds both.",
        )
    file = open_checkpoint(layout.transformer)
    if not file.shapes(transformer_rules.PREFIX):
        raise UserError(
            f"{file.path} has no tensor under {transformer_rules.PREFIX}, only such as "
            f"{next(iter(file.tensors))}.",
            "A CogVideoX transformer saved by SAT is expected.",
            "Check that it is the right file.",
        )
    return file


def _refuse_lora(file: Checkpoint) -> None:
    if layers := file.lora_layers:
        raise UserError(
            f"{file.path} carries LoRA matrices in {len(layers)} modules, the first {layers[0]}.",
            "A checkpoint of base weights alone is expected; nothing is merged here.",
            "Merge the LoRA in SAT, or give the checkpoint it was trained from.",
        )


def _plan_transformer(file: Checkpoint, detection: Detection) -> PlannedModel:
    prefix = transformer_rules.PREFIX
    table = transformer_rules.transformer_rules(
        detection.architecture, learned_positions=detection.variant.learned_positions
    )
    plan = plan_forward(table, file.shapes(prefix), f"transformer {file.path}")
    return PlannedModel("transformer", file, prefix, plan)


def _plan_vae(
    layout: SatLayout, given: Path | None, variant: Variant
) -> tuple[PlannedModel, Config]:
    path = given or layout.vae
    if path is None:
        raise UserError(
            f"{layout.root} has no file vae/3d-vae.pt.",
            "The VAE of the model is expected there.",
            "Put it there or name it with --vae FILE.",
        )
    file = open_checkpoint(path)
    shapes = file.shapes(vae_rules.PREFIX)
    architecture = vae_rules.read_architecture(shapes)
    plan = plan_forward(vae_rules.vae_rules(architecture), shapes, f"VAE {path}")
    model = PlannedModel("vae", file, vae_rules.PREFIX, plan)
    return model, vae_config(variant, architecture)


def _notes(
    detection: Detection, encoder: TextEncoder | None, dtype: torch.dtype | None
) -> tuple[str, ...]:
    variant = detection.variant
    notes = []
    if encoder is None:
        notes.append(missing_text_encoder_advice(variant.text_tokens, variant.text_embed_dim))
    if not detection.exact:
        notes.append(
            f"The sizes are not those of the released {variant.name}; the model is converted as "
            f"one built like it."
        )
    if dtype == torch.float16 and variant.dtype == "bfloat16":
        notes.append(f"{variant.name} was trained in bfloat16; float16 can make videos black.")
    return tuple(notes)


def plan_conversion(
    source: Path,
    *,
    config: Path | None = None,
    vae: Path | None = None,
    text_encoder: Path | None = None,
    dtype: torch.dtype | None = None,
) -> ConversionPlan:
    """Read and check everything that conversion needs; writes nothing.

    Args:
        source: a SAT directory with `transformer/` and `vae/`.
        config: SAT's `model.yaml`; default: the one in `source`, if there is one.
        vae: the VAE's file, where it is not `vae/3d-vae.pt`.
        text_encoder: a folder with the T5 and its tokenizer; default: SAT's, if it is there.
        dtype: what to cast to; None keeps the dtypes of the checkpoint.

    Raises:
        UserError: something is missing, unreadable, carries a LoRA or does not fit together.
    """
    layout = locate(source)
    config_path = config or layout.config
    settings = read_sat_config(config_path) if config_path else None
    file = open_transformer(layout)
    _refuse_lora(file)
    shapes = file.shapes(transformer_rules.PREFIX)
    detection = detect(transformer_rules.read_architecture(shapes), settings)
    variant = detection.variant
    planned_vae, configured_vae = _plan_vae(layout, vae, variant)
    folder = find_text_encoder(layout.root, text_encoder, settings)
    encoder = read_text_encoder(folder, variant.text_embed_dim) if folder else None
    return ConversionPlan(
        detection=detection,
        models=(_plan_transformer(file, detection), planned_vae),
        configs={
            "model_index.json": model_index(variant, with_text_encoder=encoder is not None),
            "transformer/config.json": transformer_config(variant),
            "vae/config.json": configured_vae,
            "scheduler/scheduler_config.json": scheduler_config(variant),
        },
        text_encoder=encoder,
        dtype=dtype,
        notes=_notes(detection, encoder, dtype),
    )
