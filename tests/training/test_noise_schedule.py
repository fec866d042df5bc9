"""The schedule is SAT's, and velocities and latents turn into each other."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.noise_schedule import alphas_cumprod
from training.v_prediction import add_noise, denoised, loss_weight, velocity

TABLES = load_file(Path(__file__).parents[1] / "golden" / "schedule.safetensors")


@pytest.mark.parametrize("shift", [1, 3])
def test_the_table_is_sats(shift):
    expected = TABLES[f"shift{shift}.sqrt_alphas_cumprod"].double()
    assert (alphas_cumprod(shift).sqrt() - expected).abs().max() < 1e-6


def test_velocity_and_latents_turn_into_each_other_and_losses_are_equal():
    generator = torch.Generator().manual_seed(0)
    latents, noise, guess = (
        torch.randn(4, 3, 16, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    alphas = alphas_cumprod(1.0)[[0, 300, 700, 999]]
    noisy, target = add_noise(latents, noise, alphas), velocity(latents, noise, alphas)
    assert torch.allclose(denoised(noisy, target, alphas), latents)
    error = ((denoised(noisy, guess, alphas) - latents) ** 2).flatten(1).sum(1)
    expected = ((guess - target) ** 2).flatten(1).sum(1)
    assert torch.allclose(loss_weight(alphas) * error, expected)
