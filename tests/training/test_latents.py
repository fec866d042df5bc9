"""Latents are scaled and laid out as diffusers' pipeline has them."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import CogVideoXPipeline

from training.latents import encode, from_model, to_model
from training.nano.models import new_vae
from weights.variants import VARIANTS

ALL = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "factor"), [("cogvideox-2b", 1.15258426), ("cogvideox-5b", 0.7)])
def test_every_number_is_scaled_and_frames_come_first(name, factor):
    latents = numbers(2, 4, 3, 2, 2)
    scaled = to_model(latents, VARIANTS[name])
    assert scaled.shape == (2, 3, 4, 2, 2)
    for sample, channel, frame in ((0, 0, 0), (1, 3, 0), (0, 1, 2)):
        expected = latents[sample, channel, frame] * factor
        assert torch.allclose(scaled[sample, frame, channel], expected)


@ALL
def test_there_and_back_is_the_same(variant):
    latents = numbers(2, 16, 3, 4, 4)
    assert torch.allclose(from_model(to_model(latents, variant), variant), latents)


@ALL
def test_the_pipeline_decodes_the_same(variant):
    latents = numbers(1, 3, 16, 4, 4)
    pipeline = SimpleNamespace(
        vae_scaling_factor_image=variant.vae_scaling_factor,
        vae=SimpleNamespace(decode=lambda latents: SimpleNamespace(sample=latents)),
    )
    expected = CogVideoXPipeline.decode_latents(pipeline, latents)
    assert torch.allclose(from_model(latents, variant), expected)


def test_clips_become_the_means_of_their_latents():
    torch.manual_seed(0)
    vae = new_vae().eval()
    clips = numbers(2, 3, 9, 16, 16).clamp(-1, 1)
    latents = encode(vae, clips, VARIANTS["cogvideox-5b"])
    assert latents.shape == (2, 3, 16, 2, 2)
    assert not latents.requires_grad
    mean = vae.encode(clips).latent_dist.parameters[:, :16]
    for frame in range(3):
        assert torch.allclose(latents[:, frame], mean[:, :, frame] * 0.7, atol=1e-6)
