"""The positions of latents, as diffusers' pipelines and transformer have them."""

from types import SimpleNamespace
from typing import Any

import torch

from weights.errors import UserError
from weights.variants import SPATIAL_COMPRESSION


def rotary_embeddings(
    config: Any, frames: int, height: int, width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Cosines and sines `[tokens, head_dim]`, float32; None where the model has no such positions.

    They are what the served pipeline prepares, by its own method.

    Args:
        config: the transformer's.
        frames, height, width: of the latents, whole temporal patches of frames.
    """
    if not config.use_rotary_positional_embeddings:
        return None
    from diffusers import CogVideoXPipeline

    pipeline = SimpleNamespace(
        transformer=SimpleNamespace(config=config), vae_scale_factor_spatial=SPATIAL_COMPRESSION
    )
    tables: tuple[torch.Tensor, torch.Tensor] = (
        CogVideoXPipeline._prepare_rotary_positional_embeddings(
            pipeline, height * SPATIAL_COMPRESSION, width * SPATIAL_COMPRESSION, frames, device
        )
    )
    return tables


def check_positions(config: Any, frames: int) -> None:
    """Check that a transformer with learned positions has one for each of `frames` latent frames.

    For any other number than the configured one diffusers silently takes computed positions.

    Raises:
        UserError: it has more or fewer.
    """
    learned = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
    if config.use_learned_positional_embeddings and frames != learned:
        raise UserError(
            f"A clip has {frames} latent frames.",
            f"This model has learned the positions of {learned}: those of {config.sample_frames} "
            "frames.",
            "Use clips of that length only, and no images.",
        )
