"""`cogvideox serve` leaves no process behind, however and whenever it is ended."""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cli import prediction_client, serve
from cli.runners import ROOT, RUNNERS, TRAINER
from weights.errors import OperationError

COMMAND = [sys.executable, "-c", "from cli.main import entry_point; entry_point()"]


def processes_marked(mark: str) -> list[int]:
    """Processes that inherited `mark` in their environment; those that ended have none."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (directory / "environ").read_bytes():
                found.append(int(directory.name))
        except OSError:  # It ended meanwhile, or it is not ours.
            continue
    return found


@contextlib.contextmanager
def serving(*arguments, command=COMMAND):
    """`cogvideox serve`, and the mark of its processes; what a failure leaves of them is killed."""
    mark = f"cogvideox-test-{uuid.uuid4().hex}"
    process = subprocess.Popen(
        [*command, "serve", "t2v", *arguments],
        cwd=ROOT,
        env=os.environ | {"COGVIDEOX_TEST_MARK": mark},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with process.stderr:
            yield process, mark
    finally:
        # Whatever a failure leaves must not disturb other tests, nor wait for itself here.
        process.kill()
        for left in processes_marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        process.wait()


def read_until(moment, process):
    """What it says on stderr up to the line that holds `moment`."""
    said = ""
    while moment not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


through_proc = pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="processes are found through /proc"
)


@through_proc
@pytest.mark.parametrize("moment", ["Loading nano", "Ready at"], ids=["in setup", "when ready"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_no_process_is_left(tiny_folder, moment, number, code):
    with serving("--weights", tiny_folder) as (process, mark):
        said = read_until(moment, process)
        assert len(processes_marked(mark)) >= 3  # The command, the server and its worker.
        process.send_signal(number)
        assert process.wait(timeout=60) == code, said + process.stderr.read()
        assert processes_marked(mark) == []


STAND_IN = """
import time
from pathlib import Path
from cog import BaseRunner
class Runner(BaseRunner):
    def run(self, finish: str) -> str:
        print("It runs.", flush=True)
        while not Path(finish).exists():
            time.sleep(0.01)
        return "finished"
"""


@pytest.fixture
def predicting(tmp_path):
    """`cogvideox serve` in the midst of a prediction: it, its processes' mark, the answer to be."""

    @contextlib.contextmanager
    def started(*arguments):
        runner = tmp_path / "runner.py"
        runner.write_text(STAND_IN)
        replace = (
            "import pathlib; from cli import runners; "
            f"runners.RUNNERS['t2v'] = runners.RunnerFile(pathlib.Path({str(runner)!r})); "
        )
        command = [*COMMAND[:2], replace + COMMAND[2]]
        inputs = {"input": {"finish": str(tmp_path / "finish")}}
        with (
            ThreadPoolExecutor() as client,
            serving("--weights", "none", *arguments, command=command) as (process, mark),
        ):
            url = re.search(r"Ready at (\S+)", read_until("Ready at", process))[1]
            answer = client.submit(prediction_client.answer, url, "prediction", inputs)
            read_until("It runs.", process)
            yield process, mark, answer

    return started


@through_proc
def test_sigterm_lets_what_runs_be_finished(predicting, tmp_path):
    with predicting() as (process, mark, answer):
        process.terminate()
        read_until("Ending when what runs is finished", process)
        (tmp_path / "finish").touch()
        assert answer.result(timeout=60)["output"] == "finished"
        assert process.wait(timeout=60) == 143
        assert processes_marked(mark) == []


@through_proc
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_second_signal_waits_for_nothing(predicting, number, code):
    with predicting() as (process, mark, answer):
        process.terminate()
        read_until("Ending when what runs is finished", process)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        assert processes_marked(mark) == []
        with pytest.raises(OperationError):
            answer.result(timeout=60)


@through_proc
def test_sigterm_waits_no_longer_than_the_grace(predicting):
    with predicting("--grace-seconds", "0.1") as (process, mark, answer):
        process.terminate()
        assert process.wait(timeout=60) == 143
        assert processes_marked(mark) == []
        with pytest.raises(OperationError):
            answer.result(timeout=60)


def stub_nano(monkeypatch):
    """Nothing is converted; returns a list that says how often it would have been."""
    made = []
    nano = type(sys)("cli.nano")
    nano.prepare_nano = made.append
    monkeypatch.setitem(sys.modules, "cli.nano", nano)
    return made


@pytest.mark.parametrize(
    ("option", "variable", "task", "chosen", "origin"),
    [
        ("folder", "other", "t2v", "folder", "--weights"),
        (None, "other", "t2v", "other", "COGVIDEOX_WEIGHTS"),
        (None, "", "t2v", "nano", "the default"),
        (None, "", "i2v", "nano-i2v", "the default"),
    ],
)
def test_the_weights_chosen_and_why_are_said(
    option, variable, task, chosen, origin, monkeypatch, capsys
):
    stub_nano(monkeypatch)
    monkeypatch.setenv("COGVIDEOX_WEIGHTS", variable)
    assert serve.chosen_weights(option, task) == chosen
    assert capsys.readouterr().err == f"Weights: {chosen} ({origin}).\n"


@pytest.mark.parametrize(("name", "task"), [("nano", "t2v"), ("nano-i2v", "i2v")])
def test_nano_is_made_before_it_is_served(name, task, monkeypatch):
    made = stub_nano(monkeypatch)
    assert serve.chosen_weights(name, task) == name
    assert made == [name]


@pytest.mark.parametrize(("option", "trainer"), [([], None), (["--train"], TRAINER)])
@pytest.mark.parametrize("task", RUNNERS)
def test_train_serves_the_training_for_the_tasks_runner(
    task, option, trainer, monkeypatch, tmp_path, capsys
):
    given = []

    @contextlib.contextmanager
    def running(runner, **options):
        given.append((runner, options))
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("cli.server.running_server", running)
    monkeypatch.setattr(serve, "end_on_sigterm", lambda: None)
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    options = parser.parse_args([task, "--weights", str(tmp_path), *option])
    assert serve.run(options) == 0
    ((runner, passed),) = given
    assert runner is RUNNERS[task]
    assert passed["trainer"] is trainer
    assert passed["weights"] == str(tmp_path)
    file = "train.py" if trainer else f"predict_{task}.py"
    assert f"Starting {file} …\nEnded.\n" in capsys.readouterr().err
