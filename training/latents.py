"""Latents as the transformer sees them: the VAE's, scaled by the variant's factor, frames first."""

from typing import Any

import torch

from weights.variants import Variant


def to_model(latents: torch.Tensor, variant: Variant) -> torch.Tensor:
    """Scale a VAE's latents `[B, C, F, H, W]` for the transformer and return `[B, F, C, H, W]`."""
    return (latents * variant.vae_scaling_factor).transpose(1, 2)


def from_model(latents: torch.Tensor, variant: Variant) -> torch.Tensor:
    """The inverse of `to_model`."""
    return latents.transpose(1, 2) / variant.vae_scaling_factor


def encode(vae: Any, clips: torch.Tensor, variant: Variant) -> torch.Tensor:
    """The means of the VAE's latents of clips `[B, 3, F, H, W]` in -1…1, as the model sees them."""
    with torch.no_grad():
        return to_model(vae.encode(clips).latent_dist.mean, variant)
