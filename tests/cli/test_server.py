"""The server is ended with all its processes, however it ends, and says why it does not start."""

import os
import signal
import socket
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest

import cli.server
from cli.runners import ROOT, RunnerFile
from cli.server import running_server
from weights.errors import OperationError, UserError

RUNNER = """
import tempfile
from cog import BaseRunner, Path
class Runner(BaseRunner):
    def setup(self) -> None:
        {setup}
    def run(self, x: str = "x") -> Path:
        path = Path(tempfile.gettempdir()) / "out.txt"
        path.write_text(x)
        return path
"""


@pytest.fixture
def runner(tmp_path):
    """Writes a runner whose setup is one given line."""

    def write(setup: str) -> RunnerFile:
        (tmp_path / "runner.py").write_text(RUNNER.format(setup=setup))
        return RunnerFile(tmp_path / "runner.py")

    return write


@pytest.mark.parametrize("chosen", ["", ".", "..", "../other", "/tmp", "a/b"])
def test_the_id_of_a_prediction_leads_to_nothing_else(chosen, tmp_path, monkeypatch):
    leftovers = tmp_path / "coglet" / "predictions"
    others = [leftovers / "running", leftovers / "a" / "b", tmp_path / "coglet" / "other"]
    for folder in [*others, leftovers / "ended"]:
        folder.mkdir(parents=True)
    monkeypatch.setattr("cli.server._COGLET_LEFTOVERS", leftovers)
    cli.server._remove_leftovers(SimpleNamespace(prediction_ids={chosen, "ended"}))
    assert all(folder.is_dir() for folder in others)
    assert not (leftovers / "ended").exists()


def group_exists(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_whole_group_is_ended_and_nothing_is_left_on_disk(runner, tmp_path):
    from cli.prediction_client import predict

    before = set((ROOT / ".cache").glob("server-*"))
    lines = []
    with running_server(runner("print('hello')"), weights="w", on_line=lines.append) as server:
        group = server.process.pid
        assert predict(server.url, {"x": "content"}).output == b"content"
        assert group_exists(group)
    assert not group_exists(group)
    assert lines == ["hello"]
    assert set((ROOT / ".cache").glob("server-*")) == before
    (prediction_id,) = server.log.prediction_ids
    assert not Path("/tmp/coglet/predictions", prediction_id).exists()


def test_an_error_inside_ends_the_group_too(runner):
    with pytest.raises(ZeroDivisionError), running_server(runner("pass"), weights="w") as server:
        raise ZeroDivisionError
    assert not group_exists(server.process.pid)


def test_a_worker_that_ignores_sigterm_is_killed(runner, monkeypatch):
    monkeypatch.setattr("cli.server.GRACE_SECONDS", 0.3)
    setup = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with running_server(runner(setup), weights="w") as server:
        pass
    assert not group_exists(server.process.pid)


@pytest.fixture
def started(monkeypatch):
    """The servers that were started."""
    processes = []
    start = cli.server._start

    def started(*arguments):
        processes.append(start(*arguments))
        return processes[-1]

    monkeypatch.setattr("cli.server._start", started)
    yield processes
    for process in processes:  # Nothing, unless a test failed.
        if group_exists(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


class InterruptError(Exception):
    """What the signal of these tests raises, as Ctrl-C raises KeyboardInterrupt."""


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def number(request):
    def interrupt(*_):
        raise InterruptError

    before = signal.signal(request.param, interrupt)
    yield request.param
    signal.signal(request.param, before)


def interrupt_where_python_loses_it(number):
    """Errors in a finalizer are printed and forgotten."""

    class Finalized:
        pass

    weakref.finalize(Finalized(), signal.raise_signal, number)


def test_a_signal_is_not_lost_while_the_server_starts(runner, started, number, monkeypatch):
    def health(url):
        interrupt_where_python_loses_it(number)
        return real_health(url)

    real_health = cli.server.health
    monkeypatch.setattr("cli.server.health", health)
    with pytest.raises(InterruptError), running_server(runner("pass"), weights="w"):
        pytest.fail("it must not become ready")
    assert not group_exists(started[0].pid)


def test_a_signal_leaves_no_server_that_was_just_started(runner, started, number, monkeypatch):
    def start(*arguments):
        process = recorded_start(*arguments)
        signal.raise_signal(number)
        return process

    recorded_start = cli.server._start
    monkeypatch.setattr("cli.server._start", start)
    with pytest.raises(InterruptError), running_server(runner("pass"), weights="w"):
        pytest.fail("it must not become ready")
    assert not group_exists(started[0].pid)


# Python says that it loses it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_was_lost_ends_the_wait_for_the_server(runner, started, number):
    with running_server(runner("pass"), weights="w") as server:
        interrupt_where_python_loses_it(number)
        with pytest.raises(InterruptError):
            server.wait()
    assert not group_exists(started[0].pid)


def test_a_signal_inside_is_raised_at_once_and_only_once(runner, started, number):
    with running_server(runner("pass"), weights="w"), pytest.raises(InterruptError):
        signal.raise_signal(number)
    assert not group_exists(started[0].pid)


def test_a_second_signal_ends_the_server_by_force(runner, started, number, monkeypatch):
    monkeypatch.setattr("cli.server.GRACE_SECONDS", 3600)
    kill = os.killpg

    def killpg(group, sent):
        kill(group, sent)
        if sent == signal.SIGTERM:
            signal.raise_signal(number)

    monkeypatch.setattr("os.killpg", killpg)
    setup = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with pytest.raises(InterruptError), running_server(runner(setup), weights="w"):
        signal.raise_signal(number)
    monkeypatch.undo()
    assert not group_exists(started[0].pid)


def test_the_wait_ends_with_the_server(runner, started):
    with running_server(runner("pass"), weights="w") as server:
        os.kill(server.process.pid, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL


def test_a_setup_that_fails_is_reported_with_its_message(runner):
    with (
        pytest.raises(
            OperationError,
            match=r"(?s)failed: ValueError: no weights on Tuesdays.*Loading predictor",
        ),
        running_server(runner("raise ValueError('no weights on Tuesdays')"), weights="w"),
    ):
        pytest.fail("it must not become ready")


def test_weights_that_are_not_there_are_reported_with_our_message():
    runner = RunnerFile(ROOT / "predict_t2v.py")
    with (
        pytest.raises(OperationError, match=r"failed\. COGVIDEOX_WEIGHTS is '/nowhere', and"),
        running_server(runner, weights="/nowhere"),
    ):
        pytest.fail("it must not become ready")


def test_a_server_that_dies_is_reported_with_its_last_lines(runner):
    file = runner("import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    with (
        pytest.raises(OperationError, match=r"(?s)exit code -9.*Loading predictor"),
        running_server(file, weights="w"),
    ):
        pytest.fail("it must not become ready")


def test_a_relative_folder_is_found_from_where_the_caller_is(runner, tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    setup = "import os; print(os.environ['COGVIDEOX_WEIGHTS'])"
    lines = []
    with running_server(runner(setup), weights="weights", on_line=lines.append):
        pass
    assert lines == [str(tmp_path / "weights")]


def test_a_taken_port_is_refused(runner):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"Port {port} can't be used"),
            running_server(runner("pass"), weights="w", port=port),
        ):
            pytest.fail("it must not start")


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_does_not_exist_is_refused(runner, port):
    with (
        pytest.raises(UserError, match="can't be used"),
        running_server(runner("pass"), weights="w", port=port),
    ):
        pytest.fail("it must not start")
