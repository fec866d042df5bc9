"""The real Cog server (coglet) on this machine, without Docker.

Cog's image sets the server up with environment variables and a schema file in the working
directory; the same is done here, in a temporary directory below the checkout's `.cache`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.held_signals import HeldSignals
from cli.prediction_client import health
from cli.runners import ROOT, RunnerFile
from cli.server_log import ServerLog
from weights.errors import OperationError, UserError
from weights.variants import VARIANTS

# Long enough for `setup` to download the weights of a 5B model.
SETUP_SECONDS = 3600
GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.1
# coglet makes a directory per prediction here, wherever TMPDIR points, and leaves it behind.
_COGLET_LEFTOVERS = Path("/tmp/coglet/predictions")  # noqa: S108


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready: its address, its process group and what it logged."""

    url: str
    process: subprocess.Popen[str]
    log: ServerLog
    _signals: HeldSignals

    def wait(self) -> int:
        """Wait until the server ends by itself, which gives its exit code, or until Ctrl-C."""
        # Not Popen.wait(): a signal in the moment before it sleeps would be seen only after it.
        while (code := self.process.poll()) is None:
            self._signals.check()
            time.sleep(_POLL_SECONDS)
        return code

    def drain(self, seconds: float) -> None:
        """Let the server finish what runs and end by itself, for as long as this at most."""
        # Only the server itself: its worker would break off at once.
        self.process.terminate()
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


@contextmanager
def running_server(
    runner: RunnerFile,
    *,
    weights: str,
    trainer: RunnerFile | None = None,
    port: int | None = None,
    on_line: Callable[[str], object] = print,
) -> Iterator[Server]:
    """Start the server for `runner`, wait until it is ready, and end it with all its processes.

    Args:
        weights: what COGVIDEOX_WEIGHTS shall name.
        trainer: what an image of `runner` trains with; given, the server trains, and predicts not.
        port: None lets the operating system choose one.
        on_line: called with each line that the runner prints, in a thread of ours.

    Raises:
        UserError: the port is taken.
        OperationError: the server ended, or its setup failed; the message holds what it said.
    """
    port = free_port() if port is None else _require_free(port)
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with (
        HeldSignals() as signals,
        tempfile.TemporaryDirectory(prefix="server-", dir=cache) as directory,
    ):
        _write_schema(trainer or runner, Path(directory))
        signals.check()
        process = _start(runner, trainer, Path(directory), weights, port)
        assert process.stdout is not None
        log = ServerLog(process.stdout, on_line)
        try:
            server = Server(f"http://127.0.0.1:{port}", process, log, signals)
            _wait_until_ready(server, signals)
            with signals.raised_at_once():
                yield server
        finally:
            _end_group(process, signals)
            log.wait(GRACE_SECONDS)
            _remove_leftovers(log)


def _write_schema(runner: RunnerFile, directory: Path) -> None:
    from cli.openapi_schema import openapi_document

    (directory / ".cog").mkdir()
    schema = json.dumps(openapi_document(runner))
    (directory / ".cog" / "openapi_schema.json").write_text(schema, encoding="utf-8")


def _start(
    runner: RunnerFile, trainer: RunnerFile | None, directory: Path, weights: str, port: int
) -> subprocess.Popen[str]:
    temporary = directory / "tmp"
    temporary.mkdir()
    # A path the caller gave is relative to where the caller is, and the server is elsewhere.
    if weights not in VARIANTS and Path(weights).exists():
        weights = str(Path(weights).absolute())
    environment = os.environ | {
        # The server starts its worker as plain `python`: it must be this one.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(temporary),
        "PORT": str(port),
        "COG_SETUP_TIMEOUT": str(SETUP_SECONDS),
        "COG_PREDICT_TYPE_STUB": runner.reference,
        "COGVIDEOX_WEIGHTS": weights,
    }
    command = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]
    if trainer is not None:
        environment["COG_TRAIN_TYPE_STUB"] = trainer.reference
        command += ["--x-mode", "train"]
    return subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A group of its own: Ctrl-C reaches only us, and the worker can be ended with the server.
        start_new_session=True,
    )


def _wait_until_ready(server: Server, signals: HeldSignals) -> None:
    while True:
        signals.check()
        if (code := server.process.poll()) is not None:
            raise OperationError(
                f"The Cog server ended with exit code {code} before it was ready.",
                "Its last lines were:\n" + _tail(server.log),
                "\nCorrect what they say and start it again.",
            )
        state = health(server.url)
        if state.status == "READY":
            return
        if state.status == "SETUP_FAILED":
            raise _setup_error(state.setup_logs, server.log)
        time.sleep(_POLL_SECONDS)


def _setup_error(setup_logs: str, log: ServerLog) -> OperationError:
    """What setup raised, without coglet's own words around it."""
    reason = setup_logs.strip().rpartition("etup failed: ")[2]
    kind, _, message = reason.partition(": ")
    if kind in (UserError.__name__, OperationError.__name__):
        return OperationError("The setup of the predictor failed.", message, "")
    return OperationError(
        f"The setup of the predictor failed: {reason}.", "Its last lines were:\n" + _tail(log), ""
    )


def _tail(log: ServerLog) -> str:
    log.wait(1)
    return "\n".join(f"  {line}" for line in log.tail)


def _end_group(process: subprocess.Popen[str], signals: HeldSignals) -> None:
    """End every process of the group: kindly, after a grace time or a second Ctrl-C by force."""
    try:
        _signal_group(process, signal.SIGTERM)
        _wait_for_group(process, lambda: signals.came)
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()
        _wait_for_group(process, lambda: False)  # A killed worker takes a moment to end, too.


def _wait_for_group(process: subprocess.Popen[str], hurried: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while _signal_group(process, 0) and time.monotonic() < deadline and not hurried():
        process.poll()  # Without this the ended server stays in its group as a zombie.
        time.sleep(_POLL_SECONDS)


def _signal_group(process: subprocess.Popen[str], number: int) -> bool:
    """Whether the group still has a process to signal."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _remove_leftovers(log: ServerLog) -> None:
    for name in log.prediction_ids:
        # A caller of PUT chooses the id: it must not lead elsewhere, nor to the folder of all.
        if Path(name).name == name and name not in ("", ".."):
            shutil.rmtree(_COGLET_LEFTOVERS / name, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _require_free(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"Port {port} can't be used ({error}).",
                "A free port from 1024 to 65535 is needed.",
                "Choose another with --port, or leave it out.",
            ) from None
    return port
