"""The noise schedule that CogVideoX was trained with.

Scaled-linear betas (Rombach et al. 2022, as in Stable Diffusion), the variant's shift of the
signal-to-noise ratio (Hoogeboom et al. 2023, "simple diffusion"), then a rescaling to zero terminal
SNR (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1).
SAT's own tables in tests/golden/schedule.safetensors are the reference.
"""

import torch

TIMESTEPS = 1000
_BETA_START, _BETA_END = 0.00085, 0.0120


def alphas_cumprod(snr_shift_scale: float) -> torch.Tensor:
    """The cumulative alphas of the timesteps 0 to 999, float64 `[1000]`; the last is 0.

    The variance of a noisy latent is alpha of the signal and 1 - alpha of the noise.
    """
    ends = (_BETA_START**0.5, _BETA_END**0.5)
    betas = torch.linspace(*ends, TIMESTEPS, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, dim=0)
    alphas = alphas / (snr_shift_scale + (1 - snr_shift_scale) * alphas)
    roots = alphas.sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    return ((roots - last) * first / (first - last)) ** 2
