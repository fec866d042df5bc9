"""Draws of a sample: from its seed alone, in one order, from the right distributions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.finetuning.image_condition import image_noise_sigma
from training.finetuning.sample_draws import draw_sample

WORDS = st.integers(0, 2**32 - 1)
SHAPE = (16, 3, 2, 2)


def drawn(seed, frames=4, image=(3, 16, 16)):
    return draw_sample(seed, SHAPE, frames=frames, image=image)


def flat(draws):
    """All the numbers in the order in which they are drawn."""
    parts = [draws.posterior, draws.timestep, draws.noise, draws.caption_dropout]
    if draws.image:
        image = draws.image
        parts += [image.log_sigma, image.pixels, image.posterior, image.dropout]
    return torch.cat([torch.as_tensor(part, dtype=torch.float32).flatten() for part in parts])


@settings(deadline=None)
@given(st.tuples(WORDS, WORDS, WORDS))
def test_the_same_seed_draws_the_same(seed):
    assert torch.equal(flat(drawn(seed)), flat(drawn(seed)))


@settings(deadline=None)
@given(st.tuples(WORDS, WORDS, WORDS), st.integers(0, 2))
def test_each_of_the_three_numbers_matters(seed, which):
    other = tuple(each ^ (n == which) for n, each in enumerate(seed))
    assert not torch.equal(drawn(seed).noise, drawn(other).noise)


def test_the_numbers_are_those_of_every_version():
    draws = drawn((42, 7, 3))
    assert draws.timestep == 757
    assert draws.posterior.flatten()[0].item() == pytest.approx(-0.8492, abs=1e-4)


@settings(deadline=None)
@given(st.tuples(WORDS, WORDS, WORDS))
def test_image_to_video_draws_the_same_and_then_for_the_image(seed):
    text, image = flat(drawn(seed, image=None)), flat(drawn(seed))
    assert torch.equal(image[: len(text)], text)
    assert len(image) > len(text)


def test_shapes():
    draws = drawn((1, 2, 3), frames=4)
    assert draws.posterior.shape == SHAPE
    assert draws.noise.shape == (4, 16, 2, 2)
    assert draws.image.pixels.shape == (3, 16, 16)
    assert draws.image.posterior.shape == (16, 1, 2, 2)
    assert drawn((1, 2, 3), image=None).image is None


def test_timesteps_are_uniform_from_0_to_999():
    steps = torch.tensor([drawn((0, n, 0), image=None).timestep for n in range(5000)])
    assert (steps.min(), steps.max()) == (0, 999)
    counts = torch.bincount(steps // 100, minlength=10)
    # Four standard deviations of the binomial distribution.
    assert (counts - 500).abs().max() < 4 * (5000 * 0.1 * 0.9) ** 0.5


def test_normal_and_uniform_numbers_are_that():
    several = [drawn((0, n, 1)) for n in range(500)]
    for name in ("posterior", "noise"):
        values = torch.cat([getattr(each, name).flatten() for each in several])
        assert values.mean().item() == pytest.approx(0, abs=0.02)
        assert values.std().item() == pytest.approx(1, abs=0.02)
    pixels = torch.cat([each.image.pixels.flatten() for each in several])
    assert pixels.std().item() == pytest.approx(1, abs=0.02)
    for values in (
        torch.tensor([each.caption_dropout for each in several]),
        torch.tensor([each.image.dropout for each in several]),
    ):
        assert ((values >= 0) & (values < 1)).all()
        assert values.mean().item() == pytest.approx(0.5, abs=0.06)


def test_the_strength_of_an_images_noise_is_log_normal():
    logs = torch.tensor([image_noise_sigma(drawn((0, n, 2)).image) for n in range(1000)]).log()
    assert logs.mean().item() == pytest.approx(-3.0, abs=0.07)
    assert logs.std().item() == pytest.approx(0.5, abs=0.05)
