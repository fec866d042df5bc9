"""`cogvideox serve` leaves no process behind, however and whenever it is ended."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from cli import serve
from cli.runners import ROOT, RUNNERS, TRAINER

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


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found through /proc")
@pytest.mark.parametrize("moment", ["Loading nano", "Ready at"], ids=["in setup", "when ready"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_no_process_is_left(tiny_folder, moment, number, code):
    mark = f"cogvideox-test-{uuid.uuid4().hex}"
    serving = subprocess.Popen(
        [*COMMAND, "serve", "t2v", "--weights", tiny_folder],
        cwd=ROOT,
        env=os.environ | {"COGVIDEOX_TEST_MARK": mark},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with serving.stderr as lines:
            said = ""
            while moment not in said:
                line = lines.readline()
                assert line, said
                said += line
            assert len(processes_marked(mark)) >= 3  # The command, the server and its worker.
            serving.send_signal(number)
            ended = serving.wait(timeout=60)
            assert ended == code, said + lines.read()
        assert processes_marked(mark) == []
    finally:
        # Whatever a failure leaves must not disturb other tests, nor wait for itself here.
        serving.kill()
        for left in processes_marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        serving.wait()


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
