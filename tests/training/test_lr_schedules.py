"""nano's learning rate stays in its bounds; named ones are the published ones at every step."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers.optimization import SchedulerType, get_scheduler
from hypothesis import given
from hypothesis import strategies as st

from training.lr_schedules import SCHEDULES, schedule_named, warmup_cosine
from weights.errors import UserError

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


# What SAT's sat/sgm/lr_scheduler.py says, written down once more without our code.


def published_cosine(n, warm_up, lr_min, lr_max, lr_start, max_decay):
    if n < warm_up:
        return (lr_max - lr_start) / warm_up * n + lr_start
    t = min(1.0, (n - warm_up) / (max_decay - warm_up))
    return lr_min + 0.5 * (lr_max - lr_min) * (1 + np.cos(t * np.pi))


def published_place(n, lengths):
    ends = np.cumsum(lengths)
    cycle = next(number for number, end in enumerate(ends) if n <= end)
    return cycle, n - (ends[cycle] - lengths[cycle])


def published_cyclic_cosine(n, options):
    cycle, n = published_place(n, options["cycle_lengths"])
    return published_cosine(
        n,
        options["warm_up_steps"][cycle],
        options["f_min"][cycle],
        options["f_max"][cycle],
        options["f_start"][cycle],
        options["cycle_lengths"][cycle],
    )


def published_linear(n, options):
    cycle, n = published_place(n, options["cycle_lengths"])
    warm_up, length = options["warm_up_steps"][cycle], options["cycle_lengths"][cycle]
    low, high = options["f_min"][cycle], options["f_max"][cycle]
    start = options["f_start"][cycle]
    if n < warm_up:
        return (high - start) / warm_up * n + start
    return low + (high - low) * (length - n) / length


PUBLISHED = {"sgm-cyclic-cosine": published_cyclic_cosine, "sgm-linear": published_linear}
RATES = st.floats(0, 2)


@st.composite
def cycles(draw):
    count = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    low_high = [sorted(draw(st.tuples(RATES, st.floats(0.01, 2)))) for _ in lengths]
    return {
        "cycle_lengths": lengths,
        "warm_up_steps": [draw(st.integers(0, length - 1)) for length in lengths],
        "f_start": draw(st.lists(RATES, min_size=count, max_size=count)),
        "f_min": [low for low, _ in low_high],
        "f_max": [high for _, high in low_high],
    }


@given(st.integers(0, 100), st.integers(1, 200), RATES, RATES, RATES)
def test_sgms_cosine_is_the_published_one_at_every_step(warmup, decay, one, other, start):
    low, high = sorted((one, other + 0.01))
    rate = schedule_named(
        "sgm-warmup-cosine",
        steps=warmup + decay,
        warmup=warmup,
        options={"lr_min": low, "lr_max": high, "lr_start": start},
    )
    for n in range(warmup + decay + 20):
        expected = published_cosine(n, warmup, low, high, start, warmup + decay)
        assert rate(n) == pytest.approx(expected, rel=0, abs=1e-12)


def test_sgms_cosine_may_fall_for_longer_or_shorter_than_the_training():
    for decay in (30, 300):
        options = {"max_decay_steps": decay}
        rate = schedule_named("sgm-warmup-cosine", steps=100, warmup=10, options=options)
        for n in range(100):
            expected = published_cosine(n, 10, 0.0, 1.0, 0.0, decay)
            assert rate(n) == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("name", PUBLISHED)
@given(cycles())
def test_sgms_cycles_are_the_published_ones_at_every_step(name, options):
    rate = schedule_named(name, steps=1, warmup=0, options=options)
    last = sum(options["cycle_lengths"])
    for n in range(last + 1):
        expected = PUBLISHED[name](n, options)
        assert rate(n) == pytest.approx(expected, rel=0, abs=1e-12)
    # Where the published ones fail.
    assert rate(last + 1) == rate(10 * last) == rate(last)


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_cycle_as_long_as_the_training_is_the_default(name):
    spelled_out = {
        "cycle_lengths": [50],
        "warm_up_steps": [5],
        "f_start": [0.0],
        "f_min": [0.0],
        "f_max": [1.0],
    }
    short = schedule_named(name, steps=50, warmup=5)
    assert [short(n) for n in range(51)] == [PUBLISHED[name](n, spelled_out) for n in range(51)]


def test_a_lone_number_is_that_of_every_cycle():
    options = {"cycle_lengths": [20, 30], "f_max": [1.0, 0.5]}
    in_full = options | {"warm_up_steps": [4, 4], "f_start": [0.1, 0.1], "f_min": [0.0, 0.0]}
    rate = schedule_named("sgm-linear", steps=50, warmup=4, options=options | {"f_start": 0.1})
    assert [rate(n) for n in range(51)] == [published_linear(n, in_full) for n in range(51)]


def test_the_step_that_ends_a_cycle_is_still_of_it():
    options = {"cycle_lengths": 10, "warm_up_steps": [0, 0]}
    rate = schedule_named("sgm-linear", steps=20, warmup=0, options=options)
    assert [rate(n) for n in (9, 10, 11)] == pytest.approx([0.1, 0.0, 0.9])


OF_DIFFUSERS = {
    "constant": {},
    "constant_with_warmup": {},
    "linear": {},
    "cosine": {},
    "cosine_with_restarts": {"num_cycles": 3},
    "polynomial": {"power": 2.0},
    "piecewise_constant": {"step_rules": "1:10,0.1:20,0.01"},
}


def test_every_schedule_of_diffusers_is_offered():
    known = {kind.value for kind in SchedulerType}
    assert known == set(OF_DIFFUSERS)
    assert set(SCHEDULES) == known | {"sgm-warmup-cosine", "sgm-cyclic-cosine", "sgm-linear"}


@pytest.mark.parametrize("base", [1.0, 1e-3])
@pytest.mark.parametrize("name", OF_DIFFUSERS)
def test_diffusers_schedules_are_those_that_it_applies(name, base):
    warmup = 0 if name in {"constant", "piecewise_constant"} else 5
    rate = schedule_named(name, steps=40, warmup=warmup, options=OF_DIFFUSERS[name])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    scheduler = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=40,
        **OF_DIFFUSERS[name],
    )
    # The end of polynomial is an absolute 1e-7 there, and a multiple here.
    allowed = 1e-7 if name == "polynomial" else 1e-12
    for n in range(41):
        assert rate(n) * base == pytest.approx(scheduler.get_last_lr()[0], rel=0, abs=allowed)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_is_negative_or_above_its_base(name):
    options = {"step_rules": "1:10,0.5"} if name == "piecewise_constant" else {}
    rate = schedule_named(name, steps=30, warmup=0, options=options)
    rates = [rate(n) for n in range(30)]
    assert min(rates) >= 0
    assert max(rates) == 1


REFUSED = [
    ("cosinus", {}, {}, ["'cosinus'", "sgm-linear", "cosine_with_restarts"]),
    ("linear", {"power": 2}, {}, ["'power'", "takes no options"]),
    ("sgm-linear", {"fmax": 1}, {}, ["'fmax'", "f_max"]),
    ("constant", {}, {"warmup": 5}, ["5 steps", "constant_with_warmup"]),
    ("piecewise_constant", {}, {}, ["step_rules", "1:10,0.1:20,0.01"]),
    ("piecewise_constant", {"step_rules": "1:ten,0.1"}, {}, ["1:ten,0.1"]),
    ("piecewise_constant", {"step_rules": 3}, {}, ["step_rules = 3"]),
    ("linear", {}, {"steps": 0}, ["steps = 0", "at least 1"]),
    ("linear", {}, {"warmup": -1}, ["warmup = -1", "at least 0"]),
    ("cosine", {}, {"steps": 10, "warmup": 10}, ["10 of 10 steps"]),
    ("cosine_with_restarts", {"num_cycles": 1.5}, {}, ["num_cycles = 1.5", "whole"]),
    ("polynomial", {"power": 0}, {}, ["power = 0", "above 0"]),
    ("polynomial", {"power": math.nan}, {}, ["power = nan"]),
    ("sgm-warmup-cosine", {"lr_max": math.inf}, {}, ["lr_max = inf"]),
    ("sgm-warmup-cosine", {"lr_max": 0}, {}, ["lr_max = 0", "above 0"]),
    ("sgm-warmup-cosine", {"lr_min": -0.1}, {}, ["lr_min = -0.1"]),
    ("sgm-warmup-cosine", {"lr_min": 0.5, "lr_max": 0.2}, {}, ["lr_min = 0.5", "lr_max, 0.2"]),
    ("sgm-warmup-cosine", {"lr_max": [1, 2]}, {}, ["lr_max = [1, 2]", "A number"]),
    ("sgm-warmup-cosine", {}, {"warmup": 100}, ["warmup = 100", "max_decay_steps"]),
    ("sgm-cyclic-cosine", {"f_max": True}, {}, ["f_max = True"]),
    ("sgm-cyclic-cosine", {"f_max": "1"}, {}, ["f_max = '1'"]),
    ("sgm-cyclic-cosine", {"f_max": [1, 2]}, {}, ["2 cycles", "cycle_lengths"]),
    ("sgm-linear", {"cycle_lengths": [5, 0]}, {}, ["cycle_lengths = 0", "at least 1"]),
    ("sgm-linear", {"cycle_lengths": []}, {}, ["cycle_lengths = []"]),
    ("sgm-linear", {"cycle_lengths": [5, 5, 5], "f_min": [0, 0]}, {}, ["f_min = [0, 0]", "3"]),
    ("sgm-linear", {"warm_up_steps": 5}, {"warmup": 5}, ["warmup (5)", "Give one"]),
    ("sgm-linear", {"cycle_lengths": 9, "warm_up_steps": 9}, {}, ["warm_up_steps = 9", "9"]),
]


@pytest.mark.parametrize(("name", "options", "numbers", "said"), REFUSED)
def test_what_makes_no_sense_is_refused_by_name(name, options, numbers, said):
    with pytest.raises(UserError) as error:
        schedule_named(name, **{"steps": 100, "warmup": 0} | numbers, options=options)
    for part in said:
        assert part in str(error.value)


def test_choosing_among_the_names_takes_no_torch():
    code = (
        "import sys; from training.lr_schedules import SCHEDULES, schedule_named\n"
        "schedule_named('sgm-linear', steps=10, warmup=1)\n"
        "sys.exit(bool({'torch', 'diffusers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
