"""Processes that make a video together: what comes back, and what is left when one fails.

Each group of processes takes seconds to start: what needs several is slow.
"""

import dataclasses
import os
import signal
import subprocess
import sys
from contextlib import closing

import psutil
import pytest

from cli.runners import ROOT
from predictors.pipeline import PipelineSettings
from sampling.parallel import executor as executor_module
from sampling.parallel.executor import ParallelExecutor
from tests.sampling.parallel.stub_sampler import (
    LAYOUT,
    load,
    load_broken,
    load_refused,
    settings,
    unit,
)
from weights.errors import OperationError, UserError


@pytest.fixture(autouse=True)
def processes_import_the_stub(monkeypatch):
    """They begin with our sys.path, where pytest leaves out the checkout."""
    monkeypatch.syspath_prepend(str(ROOT))


def results(executor, *prompts):
    units = ((unit(line, prompt), f"embeddings {line}") for line, prompt in enumerate(prompts, 1))
    return executor.results(units)


def ranks(out):
    return [int(path.name.partition("-")[2]) for path in out.glob("rank-*")]


def none_lives(out):
    return ranks(out) and not any(psutil.pid_exists(pid) for pid in ranks(out))


def test_records_come_from_one_rank_and_a_death_ends_the_run(tmp_path):
    with closing(ParallelExecutor(settings(tmp_path), LAYOUT, load=load)) as executor:
        found = results(executor, "a", "early first other", "b", "die other", "c")
        records = [next(found) for _ in range(3)]
        assert len(ranks(tmp_path)) == 2
        with pytest.raises(OperationError) as death:
            next(found)
    assert [record.error for (record,) in records] == [None, "early in first", None]
    assert [record.file for (record,) in records] == ["000001.mp4", None, "000003.mp4"]
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["000001.mp4", "000003.mp4"]
    assert (tmp_path / "000003.mp4").read_text() == "b embeddings 3"
    assert death.value.given == "Process 2 of 2 died at line 4 (signal 9)."
    assert none_lives(tmp_path)


def test_what_a_rank_refuses_is_refused(tmp_path):
    with closing(ParallelExecutor(settings("here"), LAYOUT, load=load_refused)) as executor:
        with pytest.raises(UserError, match="here is not a place") as refusal:
            next(results(executor, "a"))
        assert type(refusal.value) is UserError


def test_what_fails_while_it_loads_ends_the_run(tmp_path):
    with (
        closing(ParallelExecutor(settings(tmp_path), LAYOUT, load=load_broken)) as executor,
        pytest.raises(OperationError, match="load the weights: RuntimeError: not one of ours"),
    ):
        next(results(executor, "a"))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"batch": 2}, "--batch is 2 and --parallel 2."),
        ({"pipeline": PipelineSettings(compiled=True)}, "COGVIDEOX_COMPILE is 1"),
    ],
)
def test_what_a_group_can_not_do_is_refused(others, message, tmp_path):
    with pytest.raises(UserError, match=message):
        ParallelExecutor(settings(tmp_path, **others), LAYOUT)


@pytest.mark.parametrize(
    ("gpus", "remedy"), [(1, "Leave --parallel out."), (2, "Use --parallel 2")]
)
def test_more_processes_than_gpus_are_refused(gpus, remedy, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    layout = dataclasses.replace(LAYOUT, ulysses=2)
    with pytest.raises(UserError) as refusal:
        ParallelExecutor(settings(tmp_path), layout)
    assert refusal.value.remedy.startswith(remedy)


@pytest.mark.slow
def test_idle_ranks_tidy_up(tmp_path):
    with closing(ParallelExecutor(settings(tmp_path), LAYOUT, load=load)) as executor:
        list(results(executor, "a"))
    assert len(list(tmp_path.glob("closed-*"))) == 2
    assert none_lives(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        # In every rank; in one, while the other waits for it; and one that would compute on.
        ("break first other", "inside the transformer"),
        ("early other", "early in other"),
        ("again other", "_OutOfStep: a call of the transformer failed"),
    ],
)
def test_a_video_that_breaks_the_group_is_recorded_and_the_next_is_made(
    prompt, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(executor_module, "_PATIENCE", 1.0)
    with closing(ParallelExecutor(settings(tmp_path), LAYOUT, load=load)) as executor:
        (failed,), (made,) = results(executor, prompt, "b")
    assert (failed.line, failed.error, failed.file) == (1, message, None)
    assert (made.line, made.error) == (2, None)
    assert len(ranks(tmp_path)) == 4
    assert none_lives(tmp_path)


@pytest.mark.slow
def test_groups_that_break_time_and_again_end_the_run(tmp_path):
    with closing(ParallelExecutor(settings(tmp_path), LAYOUT, load=load)) as executor:
        found = results(executor, *["break other"] * 5)
        assert [next(found)[0].error for _ in range(2)] == ["inside the transformer"] * 2
        with pytest.raises(OperationError, match="Processes failed at 3 lines in succession"):
            next(found)
    assert none_lives(tmp_path)


@pytest.mark.slow
def test_an_error_that_ends_the_run_is_raised_as_it_was(tmp_path):
    with (
        closing(ParallelExecutor(settings(tmp_path), LAYOUT, load=load)) as executor,
        pytest.raises(OperationError) as error,
    ):
        next(results(executor, "full"))
    assert error.value.given == "The disk is full."
    assert none_lives(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_the_command(number, tmp_path):
    os.mkfifo(tmp_path / "waiting")
    command = [sys.executable, "-m", "tests.sampling.parallel.stub_sampler", tmp_path, "wait"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        # Where what SIGKILL leaves is removed with the test.
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as running:
        # Opened as soon as a rank opens it, too.
        (tmp_path / "waiting").read_bytes()
        children = [psutil.Process(pid) for pid in ranks(tmp_path)]
        assert len(children) == 2
        # As a terminal does it: to the command and to all that it started.
        if number == signal.SIGINT:
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        running.wait(60)
    assert not psutil.wait_procs(children, timeout=60)[1]
