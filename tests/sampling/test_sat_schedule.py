"""The tables of SAT's samplers are SAT's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sampling.sat_schedule import (
    cumulative_alphas,
    sampler_steps,
    spaced_timesteps,
    step_roots,
    zero_snr_roots,
)
from tests.sampling.sat_reference import sat_tables

# A bit more or less in the last place, where another CPU's torch takes roots otherwise.
ROUNDING = 1.2e-7
TABLES = load_file(Path(__file__).parents[1] / "golden" / "schedule.safetensors")


def alphas(shift):
    return cumulative_alphas(1000, 0.00085, 0.0120, shift)


@pytest.mark.parametrize("shift", [1, 3])
def test_the_table_of_all_timesteps_is_sats(shift):
    expected = TABLES[f"shift{shift}.sqrt_alphas_cumprod"]
    assert (zero_snr_roots(alphas(shift)) - expected).abs().max() < ROUNDING


@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("steps", [25, 50])
def test_timesteps_and_roots_of_a_sampling_are_sats(shift, steps):
    timesteps = spaced_timesteps(steps, 1000)
    assert torch.equal(timesteps, TABLES[f"shift{shift}.steps{steps}.timesteps"])
    roots = step_roots(alphas(shift), timesteps)
    expected = TABLES[f"shift{shift}.steps{steps}.sqrt_alphas_cumprod"]
    assert (roots[:-1] - expected).abs().max() < ROUNDING
    assert roots[-1] == 1


def test_every_step_count_gives_falling_timesteps_from_pure_noise():
    for steps in range(1, 1001):
        timesteps = spaced_timesteps(steps, 1000)
        assert len(timesteps) == steps
        assert timesteps[0] == 999
        assert timesteps[-1] >= 0
        assert (timesteps.diff() < 0).all()


@pytest.mark.parametrize("steps", [1, 2, 30, 37, 51, 110, 999])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_roots_of_other_step_counts_are_those_of_the_formulas_to_the_bit(shift, steps):
    timesteps = spaced_timesteps(steps, 1000)
    roots = step_roots(alphas(shift), timesteps)
    found = sampler_steps("ddim", roots, zero_snr_roots(alphas(shift)))
    by_formula = sat_tables(steps, shift)
    assert timesteps.tolist() == by_formula[0]
    assert roots.tolist() == [*by_formula[1], 1]
    assert [step.signal for step in found] == by_formula[2]


@pytest.mark.parametrize("sampler", ["dpmpp2m", "ddim"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_steps_are_finite_and_start_from_pure_noise(sampler, shift):
    table = zero_snr_roots(alphas(shift))
    for count in (*range(1, 60), 250, 500, 998, 999, 1000):
        roots = step_roots(alphas(shift), spaced_timesteps(count, 1000))
        steps = sampler_steps(sampler, roots, table)
        assert len(steps) == count
        assert steps[0].signal == 0
        values = [(s.signal, s.noise, s.keep, s.pull, s.ahead, s.stir) for s in steps]
        assert torch.tensor(values).isfinite().all()
