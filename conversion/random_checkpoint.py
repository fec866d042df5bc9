"""A SAT checkpoint with seeded random weights: the real layout, made by the inverse conversion."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from conversion import transformer_rules, vae_rules
from conversion.component_configs import transformer_config, vae_config
from conversion.nano_text_encoder import write_text_encoder
from conversion.new_folder import new_folder
from conversion.rules import Drop, Rule, plan_inverse
from weights.variants import HEAD_DIM, Variant

_TEXT_ENCODER = "t5"


def _sat_state_dict(
    model: torch.nn.Module, table: Sequence[Rule | Drop], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    source = model.state_dict()
    plan = plan_inverse(table, {name: tuple(t.shape) for name, t in source.items()}, "model")
    return {
        tensor.name: torch.cat([source[p.name][p.start : p.stop] for p in tensor.pieces]).to(dtype)
        for tensor in plan.tensors
    }


def _transformer(variant: Variant, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel.from_config(transformer_config(variant))
    table = transformer_rules.transformer_rules(
        transformer_rules.architecture_of(variant), learned_positions=variant.learned_positions
    )
    tensors = _sat_state_dict(model, table, dtype)
    return {transformer_rules.PREFIX + name: tensor for name, tensor in tensors.items()}


def _vae(variant: Variant, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    from diffusers import AutoencoderKLCogVideoX

    architecture = vae_rules.architecture_of(variant)
    model = AutoencoderKLCogVideoX.from_config(vae_config(variant, architecture))
    return _sat_state_dict(model, vae_rules.vae_rules(architecture), dtype)


def model_yaml(variant: Variant) -> dict[str, Any]:
    """The settings in the places where SAT's own yaml files have them."""
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
        "time_compressed_rate": 4,
        "latent_width": variant.sample_width,
        "latent_height": variant.sample_height,
        "num_layers": variant.num_layers,
        "patch_size": patch,
        "in_channels": variant.in_channels,
        "out_channels": 16,
        "hidden_size": variant.hidden_size,
        "num_attention_heads": variant.num_heads,
        "modules": {
            "pos_embed_config": {"target": f"dit_video_concat.{mixin}", "params": positions}
        },
    }
    shift = {"params": {"shift_scale": variant.snr_shift_scale}}
    embedder = {"params": {"model_dir": _TEXT_ENCODER, "max_length": variant.text_tokens}}
    return {
        "model": {
            "scale_factor": variant.vae_scaling_factor,
            "denoiser_config": {"params": {"discretization_config": shift}},
            "network_config": {"params": network},
            "conditioner_config": {"params": {"emb_models": [embedder]}},
        }
    }


def _write(variant: Variant, folder: Path, seed: int) -> None:
    dtype = getattr(torch, variant.dtype)
    step = folder / "transformer" / "1"
    step.mkdir(parents=True)
    (folder / "vae").mkdir()
    (folder / "transformer" / "latest").write_text("1")
    (folder / "model.yaml").write_text(yaml.safe_dump(model_yaml(variant), sort_keys=False))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = {"module": _transformer(variant, dtype)}
        torch.save(module, step / "mp_rank_00_model_states.pt")
        torch.save({"state_dict": _vae(variant, dtype)}, folder / "vae" / "3d-vae.pt")
        write_text_encoder(folder / _TEXT_ENCODER, variant, dtype)


def write_random_checkpoint(variant: Variant, destination: Path, *, seed: int = 0) -> None:
    """Write a SAT directory for `variant`: transformer, VAE, `model.yaml` and a small T5.

    The same seed gives the same weights. The folder appears under its name when it is complete.

    Raises:
        UserError: `destination` is taken.
    """
    with new_folder(destination) as folder:
        _write(variant, folder, seed)
