"""Samples of what the VAE's encoder gives: a Gaussian for every latent element, as its moments."""

import torch

# As diffusers' DiagonalGaussianDistribution and SAT's DiagonalGaussianRegularizer have it.
_LEAST_LOGVAR, _MOST_LOGVAR = -30.0, 20.0


def sample_posterior(moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The latents `[C, F, H, W]` that standard normal `noise` of that shape picks.

    Args:
        moments: `[2C, F, H, W]`, the means and then the logarithms of the variances.
    """
    mean, logvar = moments.chunk(2)
    return mean + torch.exp(0.5 * logvar.clamp(_LEAST_LOGVAR, _MOST_LOGVAR)) * noise
