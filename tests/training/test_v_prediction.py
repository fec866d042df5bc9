"""Latents, noise and velocity turn into each other, and SAT's loss is the velocity's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.noise_schedule import alphas_cumprod
from training.v_prediction import (
    add_noise,
    denoised,
    implied_noise,
    loss_weight,
    velocity,
    velocity_towards,
)

SEEDS = st.integers(0, 2**32)
ALPHAS = st.lists(st.floats(0, 1), min_size=1, max_size=4)
# SAT's weight is infinite at 1, which no timestep has.
ALPHAS_BELOW_1 = st.lists(st.floats(0, 0.9999), min_size=1, max_size=4)
SHAPES = st.sampled_from([(), (5,), (3, 4, 2, 2)])
SCHEDULE = alphas_cumprod(1.0)


def drawn(seed, alphas, shape=(3, 4, 2, 2), count=2):
    generator = torch.Generator().manual_seed(seed)
    sizes = (len(alphas), *shape)
    return [torch.randn(sizes, generator=generator, dtype=torch.float64) for _ in range(count)]


def doubles(alphas):
    return torch.tensor(alphas, dtype=torch.float64)


def squared_error(first, second):
    return ((first - second) ** 2).reshape(len(first), -1).sum(1)


@given(SEEDS, ALPHAS, SHAPES)
def test_noisy_latents_and_velocity_give_back_latents_and_noise(seed, alphas, shape):
    latents, noise = drawn(seed, alphas, shape)
    alphas = doubles(alphas)
    noisy, target = add_noise(latents, noise, alphas), velocity(latents, noise, alphas)
    assert torch.allclose(denoised(noisy, target, alphas), latents)
    assert torch.allclose(implied_noise(noisy, target, alphas), noise)


@given(SEEDS, ALPHAS_BELOW_1, SHAPES)
def test_the_velocity_towards_latents_leads_there_from_anywhere(seed, alphas, shape):
    latents, anywhere = drawn(seed, alphas, shape)
    alphas = doubles(alphas)
    leading = velocity_towards(latents, anywhere, alphas)
    assert torch.allclose(denoised(anywhere, leading, alphas), latents)
    noise = drawn(seed + 1, alphas, shape)[0]
    noisy = add_noise(latents, noise, alphas)
    expected = velocity(latents, noise, alphas)
    assert torch.allclose(velocity_towards(latents, noisy, alphas), expected)


@given(SEEDS, ALPHAS)
def test_it_is_a_rotation_and_keeps_lengths(seed, alphas):
    latents, noise = drawn(seed, alphas)
    alphas = doubles(alphas)
    noisy, target = add_noise(latents, noise, alphas), velocity(latents, noise, alphas)
    assert torch.allclose(noisy**2 + target**2, latents**2 + noise**2)


def test_by_hand():
    latents, noise, alphas = torch.tensor([10.0]), torch.tensor([5.0]), torch.tensor([0.64])
    assert add_noise(latents, noise, alphas).item() == pytest.approx(0.8 * 10 + 0.6 * 5)
    assert velocity(latents, noise, alphas).item() == pytest.approx(0.8 * 5 - 0.6 * 10)
    assert denoised(latents, noise, alphas).item() == pytest.approx(0.8 * 10 - 0.6 * 5)
    assert loss_weight(alphas).item() == pytest.approx(1 / 0.36)


def test_without_noise_latents_stay_and_the_velocity_is_the_noise():
    latents, noise = drawn(0, [1.0])
    alphas = doubles([1.0])
    assert torch.equal(add_noise(latents, noise, alphas), latents)
    assert torch.equal(velocity(latents, noise, alphas), noise)
    assert torch.equal(denoised(latents, noise, alphas), latents)


def test_without_signal_there_is_only_noise_and_the_velocity_is_minus_the_latents():
    latents, noise = drawn(0, [0.0])
    alphas = doubles([0.0])
    assert torch.equal(add_noise(latents, noise, alphas), noise)
    assert torch.equal(velocity(latents, noise, alphas), -latents)
    assert torch.equal(denoised(noise, -latents, alphas), latents)
    assert loss_weight(alphas).tolist() == [1]


@given(SEEDS, ALPHAS_BELOW_1, SHAPES)
def test_sats_weighted_error_of_the_latents_is_the_error_of_the_velocity(seed, alphas, shape):
    latents, noise, guess = drawn(seed, alphas, shape, 3)
    alphas = doubles(alphas)
    noisy, target = add_noise(latents, noise, alphas), velocity(latents, noise, alphas)
    weighted = loss_weight(alphas) * squared_error(denoised(noisy, guess, alphas), latents)
    assert torch.allclose(weighted, squared_error(guess, target))


@given(SEEDS, st.lists(st.integers(0, 999), min_size=1, max_size=4))
def test_both_losses_are_finite_and_equal_at_every_timestep(seed, timesteps):
    latents, noise, guess = drawn(seed, timesteps, count=3)
    alphas = SCHEDULE[timesteps]
    noisy, target = add_noise(latents, noise, alphas), velocity(latents, noise, alphas)
    weighted = loss_weight(alphas) * squared_error(denoised(noisy, guess, alphas), latents)
    assert weighted.isfinite().all()
    assert torch.allclose(weighted, squared_error(guess, target))


def test_each_sample_has_its_own_alpha():
    latents, noise = drawn(0, [0.9, 0.1])
    for function in (add_noise, velocity, denoised):
        both = function(latents, noise, doubles([0.9, 0.1]))
        for n, alpha in enumerate((0.9, 0.1)):
            alone = function(latents[n : n + 1], noise[n : n + 1], doubles([alpha]))
            assert torch.equal(both[n : n + 1], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_has_the_precision_of_the_latents_and_alphas_lose_none(dtype):
    # At the first timestep 1 - alpha is 0.00085: in bfloat16 the alpha would be 1 and this 0.
    alphas = SCHEDULE[:1]
    latents, noise = torch.zeros(1, 4, dtype=dtype), torch.ones(1, 4, dtype=dtype)
    noisy = add_noise(latents, noise, alphas)
    assert noisy.dtype == dtype
    assert noisy[0, 0].item() == pytest.approx(0.00085**0.5, rel=0.005)
