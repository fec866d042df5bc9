"""Reads a diffusers folder back: its variant and its tensors, memory-mapped."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from conversion.checkpoint import open_checkpoint
from conversion.transformer_rules import TransformerArchitecture
from conversion.vae_rules import VaeArchitecture
from weights.folder import WeightsFolder, check_weights_folder, variant_of
from weights.variants import Variant

_POSITIONS = "patch_embed.pos_embedding"


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """A weights folder and the tensors of its two models, by diffusers' names."""

    folder: WeightsFolder
    variant: Variant
    transformer: Mapping[str, torch.Tensor]
    transformer_architecture: TransformerArchitecture
    vae: Mapping[str, torch.Tensor]
    vae_architecture: VaeArchitecture


def _config(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "config.json").read_bytes())
    return content


def open_model(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of one model's folder, from its one file or all its shards.

    Raises:
        UserError: a file cannot be read.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= open_checkpoint(path).tensors
    return tensors


def _own_numbers(
    folder: WeightsFolder, config: Mapping[str, Any], vae: Mapping[str, Any]
) -> Variant:
    """The variant's row with the folder's own numbers."""
    scheduler = json.loads((folder.path / "scheduler" / "scheduler_config.json").read_bytes())
    return replace(
        variant_of(folder),
        num_layers=config["num_layers"],
        num_heads=config["num_attention_heads"],
        time_embed_dim=config["time_embed_dim"],
        text_embed_dim=config["text_embed_dim"],
        text_tokens=config["max_text_seq_length"],
        sample_frames=config["sample_frames"],
        sample_height=config["sample_height"],
        sample_width=config["sample_width"],
        spatial_interpolation=config["spatial_interpolation_scale"],
        ofs_embed_dim=config.get("ofs_embed_dim"),
        vae_scaling_factor=vae["scaling_factor"],
        snr_shift_scale=scheduler["snr_shift_scale"],
    )


def open_folder(path: Path) -> OpenFolder:
    """Open a weights folder.

    Raises:
        UserError: it is none, or not of a variant we know.
    """
    folder = check_weights_folder(path)
    config, vae = _config(path / "transformer"), _config(path / "vae")
    variant = _own_numbers(folder, config, vae)
    tensors = open_model(path / "transformer")
    positions = tensors.get(_POSITIONS)
    return OpenFolder(
        folder=folder,
        variant=variant,
        transformer=tensors,
        transformer_architecture=TransformerArchitecture(
            num_layers=variant.num_layers,
            hidden_size=variant.hidden_size,
            time_embed_dim=variant.time_embed_dim,
            text_embed_dim=variant.text_embed_dim,
            in_channels=config["in_channels"],
            out_channels=config["out_channels"],
            patch_size=config["patch_size"],
            patch_size_t=config.get("patch_size_t"),
            ofs_embed_dim=variant.ofs_embed_dim,
            position_rows=None if positions is None else positions.shape[1],
            rotary_tables=False,
        ),
        vae=open_model(path / "vae"),
        vae_architecture=VaeArchitecture(
            channels=tuple(vae["block_out_channels"]),
            layers_per_block=vae["layers_per_block"],
            latent_channels=vae["latent_channels"],
        ),
    )
