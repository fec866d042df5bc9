import pytest

from bench.budget import Budget, OutOfTimeError


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_what_fits_may_begin_and_what_does_not_is_told_why(clock):
    budget = Budget(60, clock)
    clock.now += 20
    assert budget.left == 40
    assert budget.refusal(40) == ""
    assert budget.refusal(41) == "it would take about 41 s and 40 s are left"


def test_once_the_time_is_up_even_the_unknown_is_refused(clock):
    budget = Budget(60, clock)
    clock.now += 61
    assert budget.refusal(0) == "it would take about 0 s and 0 s are left"


def test_it_ends_what_runs_when_the_time_is_up(clock):
    budget = Budget(60, clock)
    budget.check()
    clock.now += 60
    with pytest.raises(OutOfTimeError):
        budget.check()
