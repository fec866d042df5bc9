"""The loss against the published formulas, written out here in float64 without our own code.

The formulas are SAT's: `VideoDiffusionLoss` weighs the squared error of the denoised latents with
1/(1−ᾱ), where the network's output F enters the denoised latents as √ᾱ·noisy − √(1−ᾱ)·F. ᾱ is read
from the golden table that SAT itself computed.
"""

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from safetensors.torch import load_file

from tests.training.finetuning.tiny_variants import (
    FRAMES,
    GOLDEN,
    HEIGHT,
    T2V,
    VARIANT_OF_GOLDEN,
    WIDTH,
    numbers,
)
from training.finetuning import objective as objective_module
from training.finetuning.sample_draws import ImageDraws, SampleDraws

pytestmark = pytest.mark.usefixtures("one_thread")

SQRT_ALPHAS = load_file(GOLDEN / "schedule.safetensors")
# From SAT's configurations: scale of video latents, of image latents, shift, frames of a patch.
NUMBERS = {
    "2b": (1.15258426, None, 3, 1),
    "5b": (0.7, None, 1, 1),
    "5b_i2v": (0.7, 0.7, 1, 1),
    "1.5_5b": (0.7, None, 1, 2),
    "1.5_5b_i2v": (0.7, 1 / 0.7, 1, 2),
}
TIMESTEPS = (0, 500, 999)
ALL = pytest.mark.parametrize("golden", VARIANT_OF_GOLDEN)


def fixed_draws(place, frames, i2v):
    """What is random about sample number `place`."""
    image = ImageDraws(
        log_sigma=(-1.0, 0.0, 2.0)[place],
        pixels=numbers(3, 8 * HEIGHT, 8 * WIDTH, seed=place + 10),
        posterior=numbers(16, 1, HEIGHT, WIDTH, seed=place + 20),
        dropout=0.5,
    )
    return SampleDraws(
        posterior=numbers(16, FRAMES, HEIGHT, WIDTH, seed=place + 30),
        timestep=TIMESTEPS[place],
        noise=numbers(frames, 16, HEIGHT, WIDTH, seed=place + 40),
        caption_dropout=0.5,
        image=image if i2v else None,
    )


def reference_inputs(tiny, sample, drawn):
    """Clean and noisy latents and the square root of ᾱ, by loops over frames and channels."""
    scale, image_scale, shift, patch_frames = NUMBERS[tiny.golden]
    moments = sample.moments.double().numpy()
    root = float(SQRT_ALPHAS[f"shift{shift}.sqrt_alphas_cumprod"][drawn.timestep])
    frames = -(-FRAMES // patch_frames) * patch_frames
    clean = np.zeros((frames, 16, HEIGHT, WIDTH))
    noisy = np.zeros_like(clean)
    for frame in range(frames):
        of_clip = max(frame - (frames - FRAMES), 0)
        for channel in range(16):
            mean, logvar = moments[channel, of_clip], moments[16 + channel, of_clip]
            spread = np.exp(np.minimum(np.maximum(logvar, -30), 20)) ** 0.5
            posterior = drawn.posterior[channel, of_clip].double().numpy()
            clean[frame, channel] = scale * (mean + spread * posterior)
            noise = drawn.noise[frame, channel].double().numpy()
            noisy[frame, channel] = root * clean[frame, channel] + (1 - root**2) ** 0.5 * noise
    given = noisy
    if image_scale:
        condition = np.zeros_like(clean)
        sigma = np.exp(-3.0 + 0.5 * drawn.image.log_sigma)
        image = (sample.image.double() + sigma * drawn.image.pixels.double()).float()
        latents = tiny.vae.encode(image[None, :, None]).latent_dist
        latent = latents.mean + latents.std * drawn.image.posterior
        condition[0] = image_scale * latent[0, :, 0].double().numpy()
        given = np.concatenate([noisy, condition], axis=1)
    return clean, noisy, given, root


def pipeline_positions(tiny, frames):
    """Rotary tables as a real pipeline prepares them."""
    if not tiny.transformer.config.use_rotary_positional_embeddings:
        return None
    pipe = CogVideoXPipeline(None, None, tiny.vae, tiny.transformer, None)
    return pipe._prepare_rotary_positional_embeddings(8 * HEIGHT, 8 * WIDTH, frames, "cpu")


def reference_loss(tiny, sample, drawn):
    clean, noisy, given, root = reference_inputs(tiny, sample, drawn)
    ofs = None if tiny.golden != "1.5_5b_i2v" else torch.tensor([2.0])
    output = tiny.transformer(
        hidden_states=torch.tensor(given[None], dtype=torch.float32),
        encoder_hidden_states=sample.prompt[None],
        timestep=torch.tensor([drawn.timestep]),
        ofs=ofs,
        image_rotary_emb=pipeline_positions(tiny, len(clean)),
        return_dict=False,
    )[0][0]
    weight = 1 / (1 - root**2)
    total = 0.0
    for frame in range(len(clean)):
        for channel in range(16):
            network = output[frame, channel].double().numpy()
            denoised = root * noisy[frame, channel] - (1 - root**2) ** 0.5 * network
            total += weight * ((denoised - clean[frame, channel]) ** 2).sum()
    return total / clean.size


def fix_draws(monkeypatch):
    """Let a sample's seed be its place; the real shapes are asked for."""

    def drawn(seed, latents, *, frames, image):
        assert latents == (16, FRAMES, HEIGHT, WIDTH)
        return fixed_draws(seed[2], frames, image is not None)

    monkeypatch.setattr(objective_module, "draw_sample", drawn)


@ALL
@pytest.mark.parametrize("place", range(3))
def test_a_samples_loss_is_the_published_one(tiny_variants, monkeypatch, golden, place):
    tiny = tiny_variants[golden]
    fix_draws(monkeypatch)
    sample = tiny.sample(place)
    loss = tiny.objective().loss(tiny.transformer, [sample], [(0, 0, place)])
    drawn = fixed_draws(place, FRAMES + FRAMES % NUMBERS[golden][3], golden not in T2V)
    expected = reference_loss(tiny, sample, drawn)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@ALL
def test_a_batchs_loss_is_the_mean_of_its_samples(tiny_variants, monkeypatch, golden):
    tiny = tiny_variants[golden]
    fix_draws(monkeypatch)
    samples = [tiny.sample(place) for place in range(3)]
    seeds = [(0, 0, place) for place in range(3)]
    loss = tiny.objective().loss(tiny.transformer, samples, seeds)
    frames = FRAMES + FRAMES % NUMBERS[golden][3]
    expected = [
        reference_loss(tiny, sample, fixed_draws(place, frames, golden not in T2V))
        for place, sample in enumerate(samples)
    ]
    assert len({round(each, 3) for each in expected}) == 3
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-4)


# 5b_i2v has learned positions of three latent frames.
@pytest.mark.parametrize("golden", [*T2V, "1.5_5b_i2v"])
def test_a_clip_of_one_frame_is_one_noisy_patch(tiny_variants, golden):
    tiny = tiny_variants[golden]
    batch = tiny.objective().batch([tiny.sample(frames=1)], [(1, 2, 3)])
    assert batch.inputs.shape[1] == batch.target.shape[1] == NUMBERS[golden][3]
    assert torch.isfinite(objective_module.predict(tiny.transformer, batch)).all()
