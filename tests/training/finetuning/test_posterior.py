"""The posterior is diffusers' own, at its limits too."""

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from tests.training.finetuning.tiny_variants import numbers
from training.finetuning.posterior import sample_posterior


@pytest.mark.parametrize("scale", [1, 100])
def test_it_is_the_sample_that_diffusers_takes(scale):
    moments = numbers(8, 2, 3, 3)
    moments[4:] *= scale
    noise = numbers(1, 4, 2, 3, 3, seed=5)
    expected = DiagonalGaussianDistribution(moments[None]).sample(torch.Generator().manual_seed(5))
    assert torch.allclose(sample_posterior(moments, noise[0]), expected[0])


def test_variances_have_the_published_limits():
    moments = torch.tensor([1.0, 2.0, -1000.0, 1000.0]).reshape(4, 1, 1, 1)
    sample = sample_posterior(moments, torch.ones(2, 1, 1, 1)).flatten().double()
    small, large = torch.tensor([-15.0, 10.0], dtype=torch.float64).exp()
    assert sample[0].item() == pytest.approx(1 + small.item(), rel=1e-6)
    assert sample[1].item() == pytest.approx(2 + large.item(), rel=1e-6)
