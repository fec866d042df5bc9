"""Noisy latents and what the model predicts of them: the velocity v.

v-prediction is Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion
Models", appendix D. With x the latents, n the noise and a the cumulative alpha of the timestep:

    noisy = √a·x + √(1−a)·n        v = √a·n − √(1−a)·x
        x = √a·noisy − √(1−a)·v    n = √(1−a)·noisy + √a·v

SAT turns the predicted v into x and weighs the squared error of x with 1/(1−a). Since
x − x' = −√(1−a)·(v − v'), that is the plain squared error of v, and finite at every timestep.
"""

import torch


def _spread(alphas: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """√a and √(1−a) of each sample, in the shape to multiply `like` with."""
    alphas = alphas.reshape(-1, *(1,) * (like.dim() - 1))
    return alphas.sqrt().to(like), (1 - alphas).sqrt().to(like)


def add_noise(latents: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """Noisy latents of the shape of `latents`; `alphas` has one cumulative alpha a sample `[B]`."""
    signal, spread = _spread(alphas, latents)
    return signal * latents + spread * noise


def velocity(latents: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """What the model is to predict, of the shape of `latents`."""
    signal, spread = _spread(alphas, latents)
    return signal * noise - spread * latents


def denoised(noisy: torch.Tensor, predicted: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """The latents that a predicted velocity stands for, of the shape of `noisy`."""
    signal, spread = _spread(alphas, noisy)
    return signal * noisy - spread * predicted


def implied_noise(
    noisy: torch.Tensor, predicted: torch.Tensor, alphas: torch.Tensor
) -> torch.Tensor:
    """The noise that a predicted velocity says is in `noisy`, of its shape: √(1−a)·noisy + √a·v."""
    signal, spread = _spread(alphas, noisy)
    return spread * noisy + signal * predicted


def velocity_towards(
    latents: torch.Tensor, noisy: torch.Tensor, alphas: torch.Tensor
) -> torch.Tensor:
    """The velocity whose denoised latents are `latents`, whatever is in `noisy`.

    Infinite where a is 1: what is not noisy leads nowhere else.
    """
    signal, spread = _spread(alphas, noisy)
    return (signal * noisy - latents) / spread


def loss_weight(alphas: torch.Tensor) -> torch.Tensor:
    """SAT's weight 1/(1−a) of the squared error of the denoised latents, of the shape of `alphas`.

    The squared error of the velocity has it built in.
    """
    return 1 / (1 - alphas)
