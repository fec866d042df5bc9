"""What a sample becomes: repeatable, on its own, dropped at the right rate, as served."""

import dataclasses

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
)

from tests.training.finetuning.tiny_variants import (
    FRAMES,
    HEIGHT,
    I2V,
    T2V,
    TEXT_WIDTH,
    TOKENS,
    VARIANT_OF_GOLDEN,
    WIDTH,
    numbers,
)
from training.finetuning import image_condition as image_condition_module
from training.finetuning import objective as objective_module
from training.finetuning.objective import losses
from training.finetuning.settings import FinetuneSettings
from weights.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = pytest.mark.parametrize("golden", VARIANT_OF_GOLDEN)
SEEDS = [(42, 7, place) for place in range(3)]


class CalledError(Exception):
    """The transformer was called with `given`."""

    def __init__(self, given):
        super().__init__()
        self.given = given


def recording(**given):
    raise CalledError(given)


def served_inputs(tiny, monkeypatch, image):
    """What the served pipeline gives the transformer first; seeds of draws as in the test below."""
    monkeypatch.setattr(tiny.transformer, "forward", recording)
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction")
    kind = CogVideoXPipeline if image is None else CogVideoXImageToVideoPipeline
    pipe = kind(None, None, tiny.vae, tiny.transformer, scheduler)
    arguments = {} if image is None else {"image": (image[None] + 1) / 2}
    frames = FRAMES + FRAMES % (tiny.transformer.config.patch_size_t or 1)
    with pytest.raises(CalledError) as called:
        pipe(
            **arguments,
            prompt_embeds=numbers(1, TOKENS, TEXT_WIDTH),
            height=8 * HEIGHT,
            width=8 * WIDTH,
            num_frames=4 * (FRAMES - 1) + 1,
            num_inference_steps=1,
            guidance_scale=1.0,
            latents=numbers(1, frames, 16, HEIGHT, WIDTH),
            generator=torch.Generator().manual_seed(3),
        )
    return called.value.given


@ALL
def test_the_conditions_are_those_of_the_served_pipeline(tiny_variants, monkeypatch, golden):
    tiny = tiny_variants[golden]
    sample = tiny.sample()
    served = served_inputs(tiny, monkeypatch, sample.image)
    # Without noise on the image, and with the pipeline's choice among its latents.
    monkeypatch.setattr(image_condition_module, "image_noise_sigma", lambda _: 0.0)
    draw = objective_module.draw_sample

    def drawn(*arguments, **named):
        draws = draw(*arguments, **named)
        if draws.image is None:
            return draws
        posterior = numbers(1, 16, 1, HEIGHT, WIDTH, seed=3)[0]
        return dataclasses.replace(
            draws, image=dataclasses.replace(draws.image, posterior=posterior)
        )

    monkeypatch.setattr(objective_module, "draw_sample", drawn)
    batch = tiny.objective().batch([sample], SEEDS[:1])
    assert batch.inputs.shape == served["hidden_states"].shape
    assert torch.allclose(batch.inputs[:, :, 16:], served["hidden_states"][:, :, 16:], atol=1e-5)
    if sample.image is not None:
        assert batch.inputs[:, :1, 16:].abs().mean() > 0.1
        assert not batch.inputs[:, 1:, 16:].any()
    for ours, theirs in zip(batch.rotary or (), served["image_rotary_emb"] or (), strict=True):
        assert torch.equal(ours, theirs)
    assert (batch.rotary is None) == (golden == "2b")
    theirs = served.get("ofs")
    assert batch.ofs is theirs is None or torch.equal(batch.ofs, theirs)
    assert (batch.ofs is None) == (golden != "1.5_5b_i2v")


@ALL
def test_a_sample_is_the_same_alone_and_among_others(tiny_variants, golden):
    tiny = tiny_variants[golden]
    objective = tiny.objective(caption_dropout=0.5, image_dropout=0.5)
    samples = [tiny.sample(place) for place in range(3)]
    together = objective.batch(samples, SEEDS)
    for place in range(3):
        alone = objective.batch(samples[place : place + 1], SEEDS[place : place + 1])
        for name in ("inputs", "timesteps", "text", "target"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[place]), name
    assert len(set(together.timesteps.tolist())) == 3


@ALL
def test_it_is_repeatable_and_leaves_the_global_generator_alone(tiny_variants, golden):
    tiny = tiny_variants[golden]
    samples = [tiny.sample(place) for place in range(2)]
    values = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        values.append(tiny.objective().loss(tiny.transformer, samples, SEEDS[:2]).item())
        assert torch.equal(torch.get_rng_state(), before)
    assert values[0] == values[1]
    other = tiny.objective().loss(tiny.transformer, samples, SEEDS[1:]).item()
    assert other != values[0]


@pytest.mark.parametrize("golden", I2V)
def test_an_option_changes_nothing_but_what_it_is_about(tiny_variants, golden):
    tiny = tiny_variants[golden]
    samples = [tiny.sample(place) for place in range(3)]
    plain = tiny.objective().batch(samples, SEEDS)
    dropped = tiny.objective(caption_dropout=1.0, image_dropout=1.0).batch(samples, SEEDS)
    assert torch.equal(dropped.inputs[:, :, :16], plain.inputs[:, :, :16])
    assert torch.equal(dropped.target, plain.target)
    assert torch.equal(dropped.timesteps, plain.timesteps)
    assert plain.inputs[:, 0, 16:].any()
    assert not dropped.inputs[:, :, 16:].any()
    assert (dropped.text == tiny.objective().empty_prompt).all()
    assert not (plain.text == dropped.text).any()


def test_a_caption_may_be_dropped_to_zeros(tiny_variants):
    tiny = tiny_variants["2b"]
    objective = tiny.objective(caption_dropout=1.0, dropped_caption="zeros")
    assert not objective.batch([tiny.sample()], SEEDS[:1]).text.any()


@pytest.mark.parametrize(("captions", "images"), [(0.0, 1.0), (1.0, 0.0), (0.1, 0.05), (0.5, 0.3)])
def test_captions_and_images_are_dropped_as_often_as_asked(
    tiny_variants, monkeypatch, captions, images
):
    tiny = tiny_variants["1.5_5b_i2v"]
    monkeypatch.setattr(
        objective_module,
        "image_condition",
        lambda vae, image, drawn, variant, *, frames: torch.ones(frames, 16, 2, 2),
    )
    count = 1000
    samples = [tiny.sample(frames=2, height=2, width=2)] * count
    objective = tiny.objective(caption_dropout=captions, image_dropout=images)
    batch = objective.batch(samples, [(0, 0, place) for place in range(count)])
    without_caption = (batch.text == objective.empty_prompt).all(2).all(1).float()
    without_image = (batch.inputs[:, :, 16:] == 0).flatten(1).all(1).float()
    for dropped, share in ((without_caption, captions), (without_image, images)):
        # Four standard deviations of the binomial distribution.
        margin = 4 * (share * (1 - share) / count) ** 0.5
        assert dropped.mean().item() == pytest.approx(share, abs=margin)
    # The two do not depend on each other.
    both = (without_caption * without_image).mean().item()
    assert both == pytest.approx(captions * images, abs=0.05)


@ALL
def test_inputs_have_the_transformers_dtype_and_the_target_full_precision(tiny_variants, golden):
    tiny = tiny_variants[golden]
    half = tiny.objective(dtype=torch.bfloat16).batch([tiny.sample()], SEEDS[:1])
    full = tiny.objective().batch([tiny.sample()], SEEDS[:1])
    assert half.inputs.dtype == half.text.dtype == torch.bfloat16
    assert half.ofs is None or half.ofs.dtype == torch.bfloat16
    assert torch.equal(half.target, full.target)
    assert full.target.dtype == torch.float32
    assert torch.equal(half.inputs, full.inputs.to(torch.bfloat16))


@pytest.mark.parametrize("golden", T2V)
def test_gradients_reach_the_transformer_and_nothing_else(tiny_variants, golden):
    tiny = tiny_variants[golden]
    sample = tiny.sample()
    weight = tiny.transformer.proj_out.weight.requires_grad_(True)
    try:
        tiny.objective().loss(tiny.transformer, [sample], SEEDS[:1]).backward()
        assert weight.grad.any()
    finally:
        weight.requires_grad_(False).grad = None


def test_an_images_latents_are_encoded_without_gradients_or_autocast(tiny_variants):
    tiny = tiny_variants["5b_i2v"]
    plain = tiny.objective().batch([tiny.sample()], SEEDS[:1])
    tiny.vae.requires_grad_(True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            batch = tiny.objective().batch([tiny.sample()], SEEDS[:1])
    finally:
        tiny.vae.requires_grad_(False)
    assert not batch.inputs.requires_grad
    assert torch.equal(batch.inputs, plain.inputs)


def test_a_transformer_with_learned_positions_takes_clips_of_one_length(tiny_variants):
    tiny = tiny_variants["5b_i2v"]
    with pytest.raises(UserError, match=r"2 latent frames.*positions of 3.*of 9 frames"):
        tiny.objective().batch([tiny.sample(frames=2)], SEEDS[:1])


def test_samples_and_seeds_must_come_in_pairs(tiny_variants):
    tiny = tiny_variants["2b"]
    with pytest.raises(ValueError, match="zip"):
        tiny.objective().batch([tiny.sample()], SEEDS)


def test_image_to_video_needs_the_image(tiny_variants):
    tiny = tiny_variants["5b_i2v"]
    sample = dataclasses.replace(tiny.sample(), image=None)
    with pytest.raises(AssertionError):
        tiny.objective().batch([sample], SEEDS[:1])


def test_each_sample_has_its_own_loss():
    predicted = torch.tensor([[[1.0, 2.0]], [[3.0, 3.0]]])
    target = torch.tensor([[[1.0, 4.0]], [[0.0, 0.0]]])
    assert losses(predicted, target).tolist() == [2.0, 9.0]


def test_the_defaults_are_sats_shares_and_our_empty_prompt():
    settings = FinetuneSettings()
    assert (settings.caption_dropout, settings.image_dropout) == (0.1, 0.05)
    assert settings.dropped_caption == "empty"
