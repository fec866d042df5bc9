"""What image-to-video is given of its input image: the latent of a noisy copy, at the first frame.

SAT (`sat/diffusion_video.py`: `add_noise_to_first_frame`, `shared_step`) adds Gaussian noise to the
pixels, so that the model does not copy the image's grain, and encodes that anew at every step. The
noise's strength is log-normal. CogVideoX 1.5 was trained with image latents that nobody scaled,
and served with such that are divided by the scaling factor; here they are as served.
"""

import math
from typing import Any

import torch

from training.finetuning.posterior import sample_posterior
from training.finetuning.sample_draws import ImageDraws
from weights.variants import Variant

# Of the noise's logarithm; SAT's `add_noise_to_first_frame`.
LOG_SIGMA_MEAN, LOG_SIGMA_SPREAD = -3.0, 0.5


def image_noise_sigma(drawn: ImageDraws) -> float:
    """The strength of the pixel noise, exp(N(−3, 0.5)): 0.05 in the middle, on pixels in −1…1."""
    return math.exp(LOG_SIGMA_MEAN + LOG_SIGMA_SPREAD * drawn.log_sigma)


def image_scale(variant: Variant) -> float:
    """The factor of image latents, as CogVideoXImageToVideoPipeline's `prepare_latents` has it."""
    factor = variant.vae_scaling_factor
    return 1 / factor if variant.invert_scale_latents else factor


def image_condition(
    vae: Any, image: torch.Tensor, drawn: ImageDraws, variant: Variant, *, frames: int
) -> torch.Tensor:
    """The condition `[frames, C, H / 8, W / 8]`, float32 on the VAE's device.

    The image's latent stands at frame 0 and zeros after it. That is so, too, where the video's
    latents are filled up in front to whole temporal patches: the served pipeline does the same.

    Args:
        vae: a diffusers AutoencoderKLCogVideoX.
        image: `[3, H, W]` in −1…1, float32.
    """
    noisy = image + image_noise_sigma(drawn) * drawn.pixels
    moments = encode_moments(vae, noisy.unsqueeze(1))
    latent = sample_posterior(moments, drawn.posterior.to(vae.device)) * image_scale(variant)
    condition = latent.new_zeros(frames, *latent[:, 0].shape)
    condition[0] = latent[:, 0]
    return condition


def encode_moments(vae: Any, video: torch.Tensor) -> torch.Tensor:
    """The VAE's moments `[2C, F, H / 8, W / 8]`, float32, of a video `[3, F, H, W]` in −1…1.

    Computed in the VAE's own dtype, whatever autocast is on around: SAT turns it off here, too
    (`disable_first_stage_autocast`).
    """
    with torch.no_grad(), torch.autocast(vae.device.type, enabled=False):
        given = video.unsqueeze(0).to(vae.device, vae.dtype)
        return vae.encode(given).latent_dist.parameters[0].float()
