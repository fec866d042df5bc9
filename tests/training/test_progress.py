"""A terminal gets a bar, a log a line a minute, and the steps are the same."""

import io
import sys
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.progress import Steps


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("training.progress.time.monotonic", lambda: clock.now)
    return clock


def lines_of(capsys):
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.integers(0, 30), st.booleans())
def test_every_step_comes_once(monkeypatch, first, count, terminal):
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert list(Steps("VAE", first, first + count)) == list(range(first, first + count))


def test_a_run_that_is_done_has_no_steps():
    assert list(Steps("VAE", 7, 5)) == []


def test_a_log_gets_a_line_a_minute(clock, capsys):
    for _ in Steps("VAE", 0, 10):
        clock.now += 25
    assert lines_of(capsys) == [
        "VAE: step 3 of 10, 3 min left",
        "VAE: step 6 of 10, 2 min left",
        "VAE: step 9 of 10, 0 min left",
    ]


def test_the_rest_is_reckoned_from_the_steps_of_this_run_alone(clock, capsys):
    for step in Steps("VAE", 100, 200):
        clock.now += 96
        if step == 102:
            break
    assert lines_of(capsys) == [
        "VAE: step 101 of 200, 158 min left",
        "VAE: step 102 of 200, 157 min left",
    ]


def test_what_was_before_the_first_step_does_not_count(clock, capsys):
    steps = iter(Steps("VAE", 0, 5))
    clock.now += 1000
    next(steps)
    clock.now += 30
    next(steps)
    assert lines_of(capsys) == []


def test_less_than_a_minute_says_nothing(clock, capsys):
    for _ in Steps("VAE", 0, 60):
        clock.now += 1
    assert lines_of(capsys) == []


def test_what_is_said_of_a_step_stands_in_its_line_and_the_last_one_is_always_told(clock, capsys):
    steps = Steps("VAE", 0, 4)
    for step in steps:
        clock.now += 25
        steps.about = f"loss 0.{step}"
    assert lines_of(capsys) == [
        "VAE: step 3 of 4, 0 min left, loss 0.2",
        "VAE: step 4 of 4, loss 0.3",
    ]


def test_a_last_step_that_ends_a_minute_is_told_once(clock, capsys):
    steps = Steps("VAE", 0, 1)
    for _ in steps:
        clock.now += 61
        steps.about = "loss 1"
    assert lines_of(capsys) == ["VAE: step 1 of 1, 0 min left, loss 1"]


def test_what_is_not_to_be_shown_has_the_same_steps(clock, capsys):
    steps = Steps("VAE", 3, 6, shown=False)
    seen = []
    for step in steps:
        clock.now += 100
        steps.about = "loss 1"
        seen.append(step)
    assert seen == [3, 4, 5]
    assert lines_of(capsys) == []


def test_a_bar_shows_what_is_said(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    steps = Steps("VAE", 0, 2)
    for step in steps:
        steps.about = f"loss 0.{step}"
    assert "loss 0.1" in terminal.getvalue().split("\r")[-1]


def test_each_line_is_there_at_once(clock, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw))
    steps = iter(Steps("VAE", 0, 5))
    next(steps)
    clock.now += 61
    next(steps)
    assert raw.getvalue() == b"VAE: step 1 of 5, 4 min left\n"


def test_a_terminal_gets_a_bar_from_where_the_run_goes_on(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(Steps("VAE", 7, 10)) == [7, 8, 9]
    shown = terminal.getvalue().split("\r")
    assert "VAE:  70%" in shown[1]
    assert " 7/10 " in shown[1]
    assert "VAE: 100%" in shown[-1]
    assert " 10/10 " in shown[-1]
    assert "min left" not in terminal.getvalue()
