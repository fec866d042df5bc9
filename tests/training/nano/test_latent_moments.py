"""The folded VAE has latents of mean 0 and variance 1, and gives the same pixels."""

import copy

import pytest
import torch
from torch.nn.functional import pad

from tests.training.nano.tiny_runs import untrained_vae
from training.nano.latent_moments import normalise_latents

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clips():
    return torch.rand(2, 3, 9, 24, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def before():
    """An untrained VAE whose latents are far from normal."""
    vae = untrained_vae()
    last = vae.encoder.conv_out.conv
    with torch.no_grad():
        last.weight.mul_(torch.linspace(0.3, 4, 32).reshape(-1, 1, 1, 1, 1))
        last.bias.add_(torch.linspace(-3, 2, 32))
    return vae.requires_grad_(False)


@pytest.fixture(scope="module")
def after(before, clips):
    vae = copy.deepcopy(before)
    normalise_latents(vae, clips)
    return vae


@pytest.fixture(scope="module")
def latents(before, after, clips):
    return before.encode(clips).latent_dist, after.encode(clips).latent_dist


def moments(latents):
    axes = (0, 2, 3, 4)
    return latents.mean(axes), latents.std(axes)


def test_latents_have_mean_0_and_variance_1(latents):
    mean, spread = moments(latents[0].mean)
    assert mean.abs().max() > 1
    assert (spread - 1).abs().max() > 0.3
    mean, spread = moments(latents[1].mean)
    assert torch.allclose(mean, torch.zeros(16), atol=1e-5)
    assert torch.allclose(spread, torch.ones(16), atol=1e-5)


def test_the_posterior_is_the_same_in_the_new_units(latents):
    old, new = latents
    mean, spread = (each.reshape(1, -1, 1, 1, 1) for each in moments(old.mean))
    assert torch.allclose(new.mean, (old.mean - mean) / spread, atol=1e-4)
    assert torch.allclose(new.std, old.std / spread, rtol=1e-4)


def test_the_decoder_starts_from_the_same_but_at_the_border(before, after, latents):
    old, new = (
        vae.decoder.conv_in(each.mean)[0]
        for vae, each in zip((before, after), latents, strict=True)
    )
    inside = (..., slice(1, -1), slice(1, -1))
    assert torch.allclose(new[inside], old[inside], atol=1e-4)
    assert not torch.allclose(new, old, atol=1e-2)


def test_pixels_are_the_same_where_the_border_is_padded_as_before(before, after, latents):
    """The zeros around the old latents are not zero in the new units."""
    mean, spread = moments(latents[0].mean)
    layer = copy.deepcopy(after.decoder.conv_in.conv)

    class PadsWithOldZeros(torch.nn.Module):
        def forward(self, inputs):
            size = layer.padding[-1]
            shift = (mean / spread).reshape(1, -1, 1, 1, 1)
            padded = pad(inputs + shift, (size,) * 4) - shift
            return torch.nn.functional.conv3d(padded, layer.weight, layer.bias)

    patched = copy.deepcopy(after)
    patched.decoder.conv_in.conv = PadsWithOldZeros()
    old, new = (
        vae.decode(each.mean).sample for vae, each in zip((before, patched), latents, strict=True)
    )
    assert old.shape == (2, 3, 9, 24, 24)
    assert torch.allclose(new, old, atol=1e-3)


def test_folding_twice_changes_nothing_more(after, clips):
    again = copy.deepcopy(after)
    normalise_latents(again, clips)
    for name, parameter in again.named_parameters():
        assert torch.allclose(parameter, after.get_parameter(name), atol=1e-4), name
