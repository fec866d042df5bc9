"""Gives a trained VAE latents of mean 0 and variance 1 in every channel, by changing its weights.

The encoder's last convolution takes the channels' means away and divides by their spreads; every
convolution of the decoder that reads latents undoes that. It is exact but at the border of the
decoder's first convolution: the zeros it pads with now stand for the old means. Some training steps
after it mend that.
"""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSpatialNorm3D


def _undo(convolution: torch.nn.Conv3d, mean: torch.Tensor, spread: torch.Tensor) -> None:
    assert convolution.bias is not None
    convolution.bias.add_(convolution.weight.sum((2, 3, 4)) @ mean)
    convolution.weight.mul_(spread.reshape(1, -1, 1, 1, 1))


def normalise_latents(vae: Any, clips: torch.Tensor) -> None:
    """Measure the latents of `clips` and fold their moments into the weights.

    `vae` is a diffusers AutoencoderKLCogVideoX, changed in place; `clips` `[B, 3, F, H, W]` are
    float32 in -1…1. The latents are the means that the encoder gives, without sampling.
    """
    with torch.no_grad():
        _fold(vae, vae.encode(clips).latent_dist.mean)


def _fold(vae: Any, latents: torch.Tensor) -> None:
    mean, spread = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    last = vae.encoder.conv_out.conv
    count = len(mean)
    last.weight[:count].div_(spread.reshape(-1, 1, 1, 1, 1))
    last.bias[:count].sub_(mean).div_(spread)
    last.bias[count:].sub_(2 * spread.log())
    _undo(vae.decoder.conv_in.conv, mean, spread)
    for module in vae.decoder.modules():
        if isinstance(module, CogVideoXSpatialNorm3D):
            _undo(module.conv_y.conv, mean, spread)
            _undo(module.conv_b.conv, mean, spread)
