"""Everything about a conversion that is decided before the first byte is written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from conversion import vae_rules
from conversion.checkpoint import Checkpoint, open_checkpoint
from conversion.component_configs import (
    Config,
    model_index,
    scheduler_config,
    transformer_config,
    vae_config,
)
from conversion.detection import Detection
from conversion.lora import DEFAULT_ALPHA, merged_tensors
from conversion.rules import Drop, Plan, Rule, plan_forward
from conversion.safetensors_writer import Cast, Shard, plan_shards
from conversion.sat_config import SatConfig, read_sat_config
from conversion.sat_layout import SatLayout, locate
from conversion.tensor_source import FileTensors, TensorSource
from conversion.text_encoder import (
    TextEncoder,
    find_text_encoder,
    missing_text_encoder_advice,
    read_text_encoder,
)
from conversion.transformer_file import (
    TransformerFile,
    cut_positions,
    find_prefix,
    open_transformer,
    tensors_under,
)
from conversion.transformer_rules import transformer_rules
from weights.errors import UserError
from weights.variants import Variant

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

LoraChoice = Literal["refuse", "merge", "leave out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionOptions:
    """What a user can choose; None is the default each part states."""

    config: Path | None = None
    """SAT's `model.yaml`; default: the one in the source, if there is one."""
    vae: Path | None = None
    """The VAE's file; default: `vae/3d-vae.pt` of the source."""
    text_encoder: str | None = None
    """A folder with the T5 and its tokenizer, or a hub id; default: SAT's, if it is there."""
    variant: str | None = None
    """Overrides what keys and shapes tell."""
    cast: Cast = field(default_factory=Cast)
    frames: int | None = None
    """Cut a learned position table to this many frames."""
    lora: LoraChoice = "refuse"
    alpha: float = DEFAULT_ALPHA
    """SAT's lora_alpha, for merging."""


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """One model of the folder: where its tensors come from and what becomes of them."""

    folder: str
    file: Checkpoint
    source: TensorSource
    plan: Plan
    table: tuple[Rule | Drop, ...]
    shards: tuple[Shard, ...]
    left_out: tuple[str, ...]
    """What the file holds beside, by its name in the file."""


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """What becomes of a SAT model."""

    options: ConversionOptions
    detection: Detection
    models: tuple[PlannedModel, ...]
    configs: Mapping[str, Config]
    """JSON files by their path in the folder."""
    text_encoder: TextEncoder | None
    notes: tuple[str, ...]
    """What the user should know, such as a missing text encoder."""

    @property
    def total_bytes(self) -> int:
        """Bytes of tensor data to write, the text encoder's not counted."""
        return sum(shard.data_size for model in self.models for shard in model.shards)

    @property
    def dtype(self) -> str:
        """The dtype the folder is meant to be loaded in, by its torch name: the transformer's."""
        transformer = self.models[0]
        first = transformer.plan.tensors[0].pieces[0].name
        dtype = self.options.cast.dtype or transformer.source.dtype(first)
        return str(dtype).removeprefix("torch.")

    @property
    def settings(self) -> dict[str, Any]:
        """The options that shape the tensors, as `conversion.json` records them."""
        dtype = self.options.cast.dtype
        return {
            "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
            "variant": self.options.variant,
            "frames": self.options.frames,
            "lora": self.options.lora if self.options.lora != "refuse" else None,
            "alpha": self.options.alpha if self.options.lora == "merge" else None,
        }


def _refuse_lora(transformer: TransformerFile) -> None:
    if transformer.lora:
        raise UserError(
            f"{transformer.path} carries a LoRA ({len(transformer.lora)} matrices).",
            "What shall become of it must be said.",
            "Use `cogvideox convert-lora` for an adapter file, --merge to add it to the weights, "
            "or --without-lora for the base weights alone.",
        )


def _left_out(
    file: Checkpoint, prefix: str, plan: Plan, more: Iterable[str] = ()
) -> tuple[str, ...]:
    dropped = [prefix + name for name in (*plan.left_out, *more)]
    outside = [name for name in file.tensors if not name.startswith(prefix)]
    return (*dropped, *outside, *file.other_entries)


def _plan_transformer(transformer: TransformerFile, options: ConversionOptions) -> PlannedModel:
    detection = transformer.detection
    what = f"transformer {transformer.path}"
    table = transformer_rules(
        detection.architecture, learned_positions=detection.variant.learned_positions
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in transformer.tensors.items()}
    plan = plan_forward(table, shapes, what)
    source: TensorSource = FileTensors(transformer.tensors)
    dropped: Iterable[str] = ()
    if options.lora == "merge":
        source = merged_tensors(
            transformer.tensors, transformer.read_lora(), options.alpha, f"LoRA of {what}"
        )
    elif options.lora == "leave out":
        dropped = transformer.lora
    return PlannedModel(
        folder="transformer",
        file=transformer.file,
        source=source,
        plan=plan,
        table=tuple(table),
        shards=plan_shards(plan.tensors, source, options.cast),
        left_out=_left_out(transformer.file, transformer.prefix, plan, dropped),
    )


def _plan_vae(
    layout: SatLayout, options: ConversionOptions, variant: Variant
) -> tuple[PlannedModel, Config]:
    path = options.vae or layout.vae
    if path is None:
        raise UserError(
            f"{layout.root} has no file vae/3d-vae.pt.",
            "The VAE of the model is expected there.",
            "Put it there or name it with --vae FILE.",
        )
    file = open_checkpoint(path)
    prefix = find_prefix(file, vae_rules.ANCHOR, vae_rules.PREFIX) or vae_rules.PREFIX
    tensors = tensors_under(file, prefix)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    architecture = vae_rules.read_architecture(shapes)
    table = vae_rules.vae_rules(architecture)
    plan = plan_forward(table, shapes, f"VAE {path}")
    source = FileTensors(tensors)
    model = PlannedModel(
        folder="vae",
        file=file,
        source=source,
        plan=plan,
        table=tuple(table),
        shards=plan_shards(plan.tensors, source, options.cast),
        left_out=_left_out(file, prefix, plan),
    )
    return model, vae_config(variant, architecture)


def _notes(
    detection: Detection, encoder: TextEncoder | None, options: ConversionOptions
) -> tuple[str, ...]:
    variant = detection.variant
    notes = []
    if encoder is None:
        notes.append(missing_text_encoder_advice(variant.text_tokens, variant.text_embed_dim))
    elif "spiece.model" not in encoder.tokenizer_files:
        notes.append(
            "The tokenizer has no spiece.model; transformers 5 reads the folder, 4 does not."
        )
    if options.variant:
        notes.append(f"Taken for {options.variant} because --variant says so, not by its tensors.")
    if not detection.exact:
        notes.append(
            f"The sizes are not those of the released {variant.name}; the model is converted as "
            f"one built like it."
        )
    if options.cast.dtype == torch.float16 and variant.dtype == "bfloat16":
        notes.append(f"{variant.name} was trained in bfloat16; float16 can make videos black.")
    return tuple(notes)


def read_settings(layout: SatLayout, config: Path | None) -> SatConfig | None:
    """The `model.yaml` given, else the one of the layout, if there is one.

    Raises:
        UserError: it cannot be read.
    """
    path = config or layout.config
    return read_sat_config(path) if path else None


def plan_conversion(source: Path, options: ConversionOptions | None = None) -> ConversionPlan:
    """Read and check everything that conversion needs; writes nothing.

    Args:
        source: a SAT directory with `transformer/` and `vae/`, or a checkpoint file.
        options: what the user chose.

    Raises:
        UserError: something is missing, unreadable, does not fit together, or carries a LoRA and
            the options do not say what shall become of it.
    """
    options = options or ConversionOptions()
    layout = locate(source)
    config = read_settings(layout, options.config)
    transformer = open_transformer(layout, config, options.variant)
    if options.lora == "refuse":
        _refuse_lora(transformer)
    if options.frames is not None:
        transformer = cut_positions(transformer, options.frames)
    detection = transformer.detection
    variant = detection.variant
    planned = _plan_transformer(transformer, options)
    vae, configured_vae = _plan_vae(layout, options, variant)
    # Last, since a hub id means a download.
    folder = find_text_encoder(layout.root, options.text_encoder, config)
    encoder = read_text_encoder(folder, variant.text_embed_dim) if folder else None
    return ConversionPlan(
        options=options,
        detection=detection,
        models=(planned, vae),
        configs={
            "model_index.json": model_index(variant, with_text_encoder=encoder is not None),
            "transformer/config.json": transformer_config(variant),
            "vae/config.json": configured_vae,
            "scheduler/scheduler_config.json": scheduler_config(variant),
        },
        text_encoder=encoder,
        notes=_notes(detection, encoder, options),
    )
