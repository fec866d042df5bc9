"""The encoders give what the server's own give, in parts or at once."""

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from predictors.pipeline import load_pipeline
from predictors.prompt_embeddings import PromptEmbeddings
from predictors.weights_source import ReadyWeights
from training.finetuning.encoders import (
    as_pixels,
    encode_frames,
    encoder_dtype,
    load_text_encoder,
    load_vae,
)
from weights.variants import VARIANTS

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(params=["nano", "nano-i2v"])
def base(request, tiny_folder, tiny_i2v_folder):
    folder = {"nano": tiny_folder, "nano-i2v": tiny_i2v_folder}[request.param]
    return ReadyWeights(folder=folder, variant=VARIANTS[request.param], dtype="float32")


@pytest.fixture
def vae(base):
    return load_vae(base, CPU)


def pixels(frames, height=16, width=24):
    shape = (frames, height, width, 3)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8).numpy()


def test_prompts_are_embedded_as_the_server_does(base):
    embed = load_text_encoder(base, CPU)
    server = PromptEmbeddings(load_pipeline(base).pipe, base.variant.text_tokens)
    for prompt in ("a red circle", "", "more letters than sixteen tokens can take up"):
        expected = server.encode(prompt, "", guidance=False).prompt_embeds[0]
        assert torch.equal(embed(prompt), expected)
        assert not embed(prompt).requires_grad


def test_the_vae_is_frozen_and_does_not_train(vae):
    assert not vae.training
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def encoder_at_once(vae, frames):
    video = as_pixels(torch.from_numpy(frames)).permute(3, 0, 1, 2)
    with torch.no_grad():
        return vae.encoder(video[None])[0][0]


def test_a_clip_in_parts_is_what_diffusers_gives(base, vae):
    frames = pixels(17)
    plain = AutoencoderKLCogVideoX.from_pretrained(base.folder / "vae")
    video = as_pixels(torch.from_numpy(frames)).permute(3, 0, 1, 2)
    with torch.no_grad():
        expected = plain.encode(video[None]).latent_dist.parameters[0]
    moments = encode_frames(vae, frames)
    assert moments.shape == (32, 5, 2, 3)
    assert torch.equal(moments, expected)
    assert not torch.allclose(moments, encoder_at_once(vae, frames), atol=1e-3)


def test_bytes_become_minus_1_to_1():
    values = as_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert values.dtype == torch.float32
    assert values.tolist() == pytest.approx([-1, -0.6, 1])


def test_gpus_compute_in_the_stored_dtype(base):
    half = ReadyWeights(folder=base.folder, variant=base.variant, dtype="bfloat16")
    assert encoder_dtype(half, torch.device("cuda")) == "bfloat16"
    assert encoder_dtype(half, CPU) == "float32"
