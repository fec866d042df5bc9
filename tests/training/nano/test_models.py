"""The untrained models have the sizes of the variants table, and the parameters they state."""

import re

import pytest
import torch

from training.nano.models import NANO, NANO_I2V, new_transformer, new_vae

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vae():
    return new_vae()


@pytest.fixture(scope="module", params=[NANO, NANO_I2V], ids=lambda variant: variant.name)
def sized(request):
    return request.param, new_transformer(request.param)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def stated(function):
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]{6,}", function.__doc__)]


def test_parameters_are_as_stated(vae):
    assert stated(new_vae) == [parameters(vae)]
    both = [parameters(new_transformer(variant)) for variant in (NANO, NANO_I2V)]
    assert stated(new_transformer) == both


def test_the_vae_has_the_variant_s_sizes(vae):
    config = vae.config
    assert tuple(config.block_out_channels) == NANO.vae_channels == (16, 32, 32, 64)
    assert (config.latent_channels, config.layers_per_block, config.norm_num_groups) == (16, 1, 8)
    assert config.scaling_factor == NANO.vae_scaling_factor


def test_the_vae_makes_the_latents_that_the_transformer_reads(vae):
    clip = torch.zeros(1, 3, NANO.default_frames, NANO.height, NANO.width)
    with torch.no_grad():
        latents = vae.encode(clip).latent_dist.mean
    assert latents.shape == (1, 16, 3, NANO.sample_height, NANO.sample_width) == (1, 16, 3, 8, 8)


def test_the_transformer_has_the_variant_s_sizes(sized):
    variant, transformer = sized
    assert len(transformer.transformer_blocks) == variant.num_layers
    embedding = transformer.patch_embed.proj.weight
    assert embedding.shape == (variant.hidden_size, variant.in_channels, 2, 2)
    assert transformer.patch_embed.text_proj.in_features == variant.text_embed_dim
    assert transformer.time_embedding.linear_2.out_features == variant.time_embed_dim


def test_the_transformer_takes_latents_and_gives_velocities(sized):
    variant, transformer = sized
    latents = torch.zeros(2, 3, variant.in_channels, 8, 8)
    text = torch.zeros(2, variant.text_tokens, variant.text_embed_dim)
    with torch.no_grad():
        output = transformer(latents, text, torch.tensor([0, 999]), return_dict=False)[0]
    assert output.shape == (2, 3, 16, 8, 8)


def test_weights_come_from_torch_s_generator(vae):
    made = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        made.append(new_transformer().proj_out.weight)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
