"""Writes a SAT directory: the inverse of a conversion, from a diffusers folder or from memory."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from conversion import transformer_rules, vae_rules
from conversion.diffusers_folder import open_folder
from conversion.new_folder import check_destination, new_folder
from conversion.pt_writer import write_pt
from conversion.rules import Drop, Plan, Rule, plan_inverse
from conversion.tensor_source import FileTensors
from weights.disk_space import check_space
from weights.variants import HEAD_DIM, LATENT_CHANNELS, TEMPORAL_COMPRESSION, Variant

TEXT_ENCODER = "t5-v1_1-xxl"

Advance = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class SatFile:
    """One checkpoint file to write."""

    path: str
    outer_key: str
    prefix: str
    plan: Plan
    source: FileTensors


@dataclass(frozen=True, slots=True)
class SatPlan:
    """A SAT directory to write."""

    variant: Variant
    files: tuple[SatFile, ...]
    text_encoder: Path | None
    """A folder with `text_encoder/` and `tokenizer/`."""

    @property
    def total_bytes(self) -> int:
        """Bytes of tensor data, the text encoder's not counted."""
        return sum(t.nbytes for file in self.files for t in file.source.tensors.values())


def _planned(
    path: str,
    outer_key: str,
    prefix: str,
    table: list[Rule | Drop],
    tensors: Mapping[str, torch.Tensor],
) -> SatFile:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    plan = plan_inverse(table, shapes, f"source of {path}")
    return SatFile(path, outer_key, prefix, plan, FileTensors(tensors))


def planned_transformer(
    architecture: transformer_rules.TransformerArchitecture,
    tensors: Mapping[str, torch.Tensor],
    *,
    learned_positions: bool,
) -> SatFile:
    """Plan the transformer's file.

    Raises:
        UserError: a tensor is missing, unknown or of another shape.
    """
    table = transformer_rules.transformer_rules(architecture, learned_positions=learned_positions)
    path = "transformer/1/mp_rank_00_model_states.pt"
    return _planned(path, "module", transformer_rules.PREFIX, table, tensors)


def planned_vae(
    architecture: vae_rules.VaeArchitecture, tensors: Mapping[str, torch.Tensor]
) -> SatFile:
    """Plan the VAE's file; errors as in `planned_transformer`."""
    table = vae_rules.vae_rules(architecture)
    return _planned("vae/3d-vae.pt", "state_dict", vae_rules.PREFIX, table, tensors)


def plan_sat(source: Path) -> SatPlan:
    """Plan a SAT directory from a diffusers folder; writes nothing.

    Raises:
        UserError: `source` is no weights folder of a variant we know, or its tensors do not fit.
    """
    opened = open_folder(source)
    learned = opened.variant.learned_positions
    return SatPlan(
        variant=opened.variant,
        files=(
            planned_transformer(
                opened.transformer_architecture, opened.transformer, learned_positions=learned
            ),
            planned_vae(opened.vae_architecture, opened.vae),
        ),
        text_encoder=source if (source / "text_encoder").is_dir() else None,
    )


def model_yaml(variant: Variant) -> dict[str, Any]:
    """The variant's settings in the places where SAT's own yaml files have them."""
    positions: dict[str, Any] = {"text_length": variant.text_tokens}
    if variant.rotary:
        positions["hidden_size_head"] = HEAD_DIM
        positions["learnable_pos_embed"] = variant.learned_positions
    else:
        positions["height_interpolation"] = variant.spatial_interpolation
        positions["width_interpolation"] = variant.spatial_interpolation
    mixin = "Rotary3DPositionEmbeddingMixin" if variant.rotary else "Basic3DPositionEmbeddingMixin"
    patch: int | list[int] = variant.patch_size
    if variant.patch_size_t is not None:
        patch = [variant.patch_size_t, variant.patch_size, variant.patch_size]
    network = {
        "time_embed_dim": variant.time_embed_dim,
        "elementwise_affine": True,
        "num_frames": variant.sample_frames,
        "time_compressed_rate": TEMPORAL_COMPRESSION,
        "latent_width": variant.sample_width,
        "latent_height": variant.sample_height,
        "num_layers": variant.num_layers,
        "patch_size": patch,
        "in_channels": variant.in_channels,
        "out_channels": LATENT_CHANNELS,
        "hidden_size": variant.hidden_size,
        "num_attention_heads": variant.num_heads,
        "modules": {
            "pos_embed_config": {"target": f"dit_video_concat.{mixin}", "params": positions}
        },
    }
    shift = {"params": {"shift_scale": variant.snr_shift_scale}}
    embedder = {"params": {"model_dir": TEXT_ENCODER, "max_length": variant.text_tokens}}
    return {
        "model": {
            "scale_factor": variant.vae_scaling_factor,
            "denoiser_config": {"params": {"discretization_config": shift}},
            "network_config": {"params": network},
            "conditioner_config": {"params": {"emb_models": [embedder]}},
        }
    }


def write_parts(plan: SatPlan, folder: Path, advance: Advance = lambda _: None) -> None:
    """Write everything but the text encoder into an empty folder."""
    for file in plan.files:
        path = folder / file.path
        path.parent.mkdir(parents=True)
        with path.open("wb") as stream:
            write_pt(
                stream,
                file.outer_key,
                file.plan.tensors,
                file.source,
                prefix=file.prefix,
                advance=advance,
            )
    (folder / "transformer" / "latest").write_text("1")
    text = yaml.safe_dump(model_yaml(plan.variant), sort_keys=False)
    (folder / "model.yaml").write_text(text)


def write_sat(plan: SatPlan, destination: Path, *, advance: Advance = lambda _: None) -> None:
    """Write the SAT directory; it appears under its name when it is complete.

    Raises:
        UserError: `destination` is taken.
        OperationError: there is not enough space.
    """
    check_destination(destination)
    check_space(destination, plan.total_bytes)
    with new_folder(destination) as folder:
        write_parts(plan, folder, advance)
        if plan.text_encoder is not None:
            # SAT keeps model and tokenizer in one folder.
            for part in ("text_encoder", "tokenizer"):
                shutil.copytree(plan.text_encoder / part, folder / TEXT_ENCODER, dirs_exist_ok=True)
