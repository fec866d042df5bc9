"""A benchmark goes on after a case that fails, ends in time, and keeps what there is."""

import json
import signal

import pytest
import torch

from bench.budget import Budget
from bench.case import Case, run_cases
from bench.figures import Figure
from bench.run import bench
from bench.session import Session
from weights.variants import VARIANTS

NANO = VARIANTS["nano"]
FIGURE = Figure(name="taken", value=1, unit="s")


def case(name, run, **more):
    return Case(name=name, shows=name, run=run, **{"expected_seconds": lambda _session: 0, **more})


def good(_session):
    yield FIGURE


def out_of_memory(_session):
    yield FIGURE
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried this and that.")


def broken(_session):
    yield FIGURE
    raise ValueError("odd")


def interrupted(_session):
    yield FIGURE
    signal.raise_signal(signal.SIGINT)
    yield FIGURE


def slow(session):
    yield FIGURE
    while True:
        session.budget.check()


@pytest.fixture
def session():
    return Session(NANO, steps=2, budget=Budget(60))


def test_what_fails_keeps_its_figures_and_the_rest_goes_on(session):
    cases = [case(run.__name__, run) for run in (out_of_memory, broken, good)]
    outcomes = list(run_cases(cases, session))
    assert [(o.status, o.reason) for o in outcomes] == [
        ("out of memory", "CUDA out of memory."),
        ("failed", "ValueError: odd"),
        ("done", ""),
    ]
    assert all(o.figures == (FIGURE,) for o in outcomes)


def test_what_cannot_be_done_here_or_in_time_is_skipped_with_the_reason(session):
    def expected(_session):
        return 3600

    cases = [
        case("no device", good, obstacle=lambda _session: "there is no CUDA device"),
        case("too long", good, expected_seconds=expected),
        case("short", good),
    ]
    outcomes = {o.case: o for o in run_cases(cases, session)}
    assert outcomes["no device"].reason == "there is no CUDA device"
    assert outcomes["too long"].reason.startswith("it would take about 3600 s")
    assert [o.status for o in outcomes.values()] == ["skipped", "skipped", "done"]


def test_a_case_is_ended_when_the_time_is_up():
    session = Session(NANO, steps=2, budget=Budget(0.2))
    first, second = run_cases([case("slow", slow), case("next", good)], session)
    assert (first.status, first.figures) == ("skipped", (FIGURE,))
    assert second.status == "skipped"
    assert 0.1 < first.seconds < 10


def test_ctrl_c_ends_it_with_what_there_is(tmp_path):
    cases = [case("first", good), case("second", interrupted), case("third", good)]
    report = bench([NANO, VARIANTS["nano-i2v"]], cases, steps=2, budget_seconds=60, folder=tmp_path)
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written == json.loads(json.dumps(report.as_json()))
    (variant,) = written["variants"]
    assert [c["status"] for c in variant["cases"]] == ["done", "interrupted"]
    assert "- second: interrupted, Ctrl-C" in (tmp_path / "bench.md").read_text()


def test_the_files_are_there_while_it_still_runs(tmp_path):
    seen = []

    def look(_session):
        seen.append(json.loads((tmp_path / "bench.json").read_text()))
        yield FIGURE

    bench(
        [NANO],
        [case("first", good), case("look", look)],
        steps=2,
        budget_seconds=60,
        folder=tmp_path,
    )
    (document,) = seen
    assert [c["case"] for c in document["variants"][0]["cases"]] == ["first"]
