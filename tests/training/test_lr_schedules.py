"""The learning rate rises in a line, falls along torch's cosine, and stays in its bounds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.lr_schedules import warmup_cosine

FLOORS = st.floats(0, 1)


@st.composite
def runs(draw):
    warmup = draw(st.integers(0, 1000))
    return {
        "warmup": warmup,
        "steps": warmup + draw(st.integers(1, 10_000)),
        "floor": draw(FLOORS),
    }


def test_it_rises_in_equal_parts():
    rates = [warmup_cosine(step, warmup=4, steps=10) for step in range(4)]
    assert rates == [0.25, 0.5, 0.75, 1.0]


def test_without_warmup_it_begins_at_the_highest():
    assert warmup_cosine(0, warmup=0, steps=10) == 1


@pytest.mark.parametrize("floor", [0.0, 0.01, 0.5])
def test_it_falls_as_torchs_cosine_does(floor):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=floor)
    for step in range(51):
        expected = scheduler.get_last_lr()[0]
        assert warmup_cosine(20 + step, warmup=20, steps=70, floor=floor) == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


@given(runs())
def test_the_highest_is_at_the_end_of_the_warmup_and_the_floor_at_the_end(run):
    assert warmup_cosine(run["warmup"], **run) == pytest.approx(1)
    assert warmup_cosine(run["steps"], **run) == pytest.approx(run["floor"], abs=1e-12)


@given(runs(), st.integers(0, 20_000))
def test_after_the_warmup_it_never_rises_or_leaves_its_bounds(run, later):
    step = run["warmup"] + later
    rate, following = warmup_cosine(step, **run), warmup_cosine(step + 1, **run)
    assert run["floor"] - 1e-12 <= following <= rate <= 1


@given(runs(), st.integers(0, 999))
def test_during_the_warmup_every_step_is_as_high(run, step):
    if step < run["warmup"] - 1:
        rise = warmup_cosine(step + 1, **run) - warmup_cosine(step, **run)
        assert rise == pytest.approx(1 / run["warmup"])


@given(st.integers(0, 100), st.integers(1, 1000), FLOORS)
def test_half_way_is_half_way(warmup, half, floor):
    rate = warmup_cosine(warmup + half, warmup=warmup, steps=warmup + 2 * half, floor=floor)
    assert rate == pytest.approx((1 + floor) / 2)


@given(runs(), st.integers(0, 10**9))
def test_after_the_last_step_it_stays_at_the_floor(run, more):
    assert warmup_cosine(run["steps"] + more, **run) == pytest.approx(run["floor"], abs=1e-12)


def test_a_run_that_ends_before_its_warmup_only_rises():
    rates = [warmup_cosine(step, warmup=8, steps=4) for step in range(4)]
    assert rates == [0.125, 0.25, 0.375, 0.5]
