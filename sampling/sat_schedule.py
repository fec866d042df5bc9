"""The steps of SAT's own samplers, as numbers.

The formulas are those of zai-org/CogVideo's `sat/sgm/modules/diffusionmodules`: the tables of
`discretizer.py` (ZeroSNRDDPMDiscretization), the steps of `sampling.py` (VPSDEDPMPP2MSampler,
VideoDDIMSampler) and the denoiser of `denoiser.py` and `denoiser_scaling.py` (DiscreteDenoiser
with VideoScaling). DPM-Solver++ (2M) with noise is the SDE solver of Lu et al. 2022
(arXiv:2211.01095), DDIM that of Song et al. 2020 (arXiv:2010.02502).

All is computed in float32 in SAT's order, because SAT computes it so: another precision is off by
up to 5e-5 in the latents of 1000 steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sampling.clip_job import SatSampler


@dataclass(frozen=True, slots=True, kw_only=True)
class SatStep:
    """One step of a sampler, from a noisy sample x to the next one.

    The model's velocity v gives the denoised sample d = `signal` · x − `noise` · v. The next sample
    is `keep` · x + `pull` · e + `stir` · (fresh noise), where e = d + `ahead` · (d − the d of the
    step before) extrapolates what the model denoises to.
    """

    signal: float
    noise: float
    keep: float
    pull: float
    ahead: float
    stir: float


def cumulative_alphas(
    timesteps: int, beta_start: float, beta_end: float, snr_shift_scale: float
) -> torch.Tensor:
    """The variance that is left of the signal, before any rescaling: float64 `[timesteps]`.

    Scaled-linear betas, and the signal-to-noise ratio divided by `snr_shift_scale`.
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, dim=0)
    return alphas / (snr_shift_scale + (1 - snr_shift_scale) * alphas)


def zero_snr_roots(alphas: torch.Tensor) -> torch.Tensor:
    """The square roots of `alphas`, moved and stretched so that the last is 0: float32 `[n]`.

    The first stays (Lin et al. 2024, arXiv:2305.08891, algorithm 1). SAT does this to the timesteps
    that it has picked, so that the values between depend on how many these are. Of one timestep
    the root is 0, where SAT divides 0 by 0.
    """
    roots = alphas.float().sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    return (roots - last) * (first / (first - last)) if len(roots) > 1 else roots - last


def spaced_timesteps(steps: int, train_timesteps: int) -> torch.Tensor:
    """The timesteps that SAT picks, from the noisiest down: int64 `[steps]`."""
    if steps == train_timesteps:
        return torch.arange(train_timesteps - 1, -1, -1)
    picked = np.linspace(train_timesteps - 1, 0, steps, endpoint=False)
    return torch.from_numpy(picked.astype(np.int64))


def step_roots(alphas: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """What is left of the signal before each step and after the last: float32 `[steps + 1]`."""
    roots = zero_snr_roots(alphas[timesteps.flip(0)]).flip(0)
    return torch.cat([roots, roots.new_ones(1)])


def sampler_steps(sampler: SatSampler, roots: torch.Tensor, table: torch.Tensor) -> list[SatStep]:
    """The steps between `roots` (of `step_roots`).

    Args:
        table: the roots of all timesteps, `[train timesteps]`. SAT's denoiser takes for each step
            the nearest of these, while the sampler goes by the step's own.
    """
    before, after = roots[:-1], roots[1:]
    signal = table[(before[:, None] - table).abs().argmin(dim=1)]
    columns = (signal, _noise(signal), *_UPDATES[sampler](before, after))
    return [
        SatStep(signal=signal, noise=noise, keep=keep, pull=pull, ahead=ahead, stir=stir)
        for signal, noise, keep, pull, ahead, stir in torch.stack(columns, dim=1).tolist()
    ]


def _ddim(before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`keep`, `pull`, `ahead` and `stir` of DDIM's steps, each `[steps]`."""
    keep = _noise_ratio(before, after)
    none = torch.zeros_like(keep)
    return keep, after - before * keep, none, none


def _dpmpp2m(before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`keep`, `pull`, `ahead` and `stir` of DPM-Solver++'s steps, each `[steps]`.

    The first step starts at a log-SNR of minus infinity: it keeps nothing of the sample, and the
    second extrapolates nothing. The last lands on what the model denoises to.
    """
    log_snr = ((before**2 / (1 - before**2)) ** 0.5).log()
    h = log_snr.diff()
    before, after = before[:-1], after[:-1]
    keep = _noise_ratio(before, after) * (-h).exp()
    pull = -((-2 * h).expm1() * after)
    ahead = torch.cat([h.new_zeros(1), 1 / (2 * (h[:-1] / h[1:]))])[: len(h)]
    stir = _noise(after) * (1 - (-2 * h).exp()) ** 0.5
    ends = zip((keep, pull, ahead, stir), (0.0, 1.0, 0.0, 0.0), strict=True)
    return tuple(torch.cat([column, column.new_tensor([end])]) for column, end in ends)


def _noise(roots: torch.Tensor) -> torch.Tensor:
    return (1 - roots**2) ** 0.5


def _noise_ratio(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return ((1 - after**2) / (1 - before**2)) ** 0.5


_UPDATES: dict[SatSampler, Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]] = {
    "dpmpp2m": _dpmpp2m,
    "ddim": _ddim,
}
