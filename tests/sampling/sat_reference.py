"""SAT's samplers, written down from the published formulas in the plainest way: one loop.

The tables are float32 as SAT's are (which of the denoiser's 1000 values is nearest can hang on the
last bit); everything else is float64.
"""

import math

import numpy as np
import torch


def sat_tables(steps, shift):
    """Timesteps, the sampler's roots and the denoiser's, from the noisiest down."""
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=torch.float64).numpy() ** 2
    alphas = np.cumprod(1 - betas)
    alphas = alphas / (shift + (1 - shift) * alphas)
    timesteps = np.linspace(999, 0, steps, endpoint=False).astype(int)
    table, roots = _rescaled(alphas[::-1])[::-1], _rescaled(alphas[timesteps])
    nearest = [int(np.abs(table - root).argmin()) for root in roots]
    return timesteps.tolist(), roots.tolist(), table[nearest].tolist()


def _rescaled(alphas_from_the_noisiest):
    # torch's root as in SAT, and torch's linspace: numpy's differ in the last bit.
    roots = torch.from_numpy(alphas_from_the_noisiest.astype(np.float32)).sqrt().numpy()
    if len(roots) == 1:
        return roots - roots
    return (roots - roots[0]) * (roots[-1] / (roots[-1] - roots[0]))


def sat_noises(draw, sampler, steps):
    """The noise of each step. From its second step on SAT draws twice and uses the second."""
    if sampler == "ddim":
        return [None] * steps
    noises = []
    for step in range(steps - 1):
        for _ in range(1 if step == 0 else 2):
            noise = draw()
        noises.append(noise)
    return [*noises, None]


def sat_sample(sampler, steps, shift, velocity, sample, noises):
    """The denoised sample, float64. `velocity(sample, timestep, number of the step)`."""
    timesteps, roots, denoiser_roots = sat_tables(steps, shift)
    roots = [*roots, 1.0]
    x, old = sample.double(), None
    for i, (timestep, c) in enumerate(zip(timesteps, denoiser_roots, strict=True)):
        a, b = roots[i], roots[i + 1]
        denoised = c * x - math.sqrt(1 - c * c) * velocity(x, timestep, i).double()
        if sampler == "ddim":
            ratio = math.sqrt((1 - b * b) / (1 - a * a))
            x = ratio * x + (b - a * ratio) * denoised
        elif i == steps - 1:
            x = denoised
        else:
            h = _log_snr(b) - _log_snr(a)
            target = denoised
            if old is not None:
                r = (_log_snr(a) - _log_snr(roots[i - 1])) / h
                target = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * old
            x = math.sqrt((1 - b * b) / (1 - a * a)) * math.exp(-h) * x
            x = x + b * (1 - math.exp(-2 * h)) * target
            x = x + math.sqrt(1 - b * b) * math.sqrt(1 - math.exp(-2 * h)) * noises[i].double()
        old = denoised
    return x


def dynamic_cfg(scale, steps, timestep):
    """SAT's DynamicCFG with exp 5, whose "step_index" is the steps less the timestep."""
    step_index = steps - timestep
    return 1 + scale * (1 - math.cos(math.pi * (step_index / steps) ** 5)) / 2


def _log_snr(root):
    return math.log(root / math.sqrt(1 - root * root)) if root else -math.inf
