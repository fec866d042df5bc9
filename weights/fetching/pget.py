"""Downloads a tarball with Replicate's `pget` (github.com/replicate/pget; not PyPI's of that name).

pget verifies nothing, may hang for ever and, told to extract, writes outside of its target for a
hostile tarball. So it only brings the tarball to a file, watched by us; what comes out of that file
is what the lock names and has its digest.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from weights.errors import OperationError
from weights.fetching.landing_folder import Progress
from weights.fetching.settings import FetchSettings
from weights.urls import shown_url

# Its own default of 125 MB a chunk takes a gigabyte of memory and is slower.
_OPTIONS = ("--log-level=warn", "-m", "16M", "-c", "8")
_LOOK_SECONDS = 0.1


def _failed(url: str, what: str) -> OperationError:
    return OperationError(
        f"pget failed to download {shown_url(url)} ({what}).",
        "The tarball that the lock names is expected there.",
        "Try again, or set COGVIDEOX_FETCH_ENGINE=builtin.",
    )


def _signs_of_life(process: "subprocess.Popen[bytes]", target: Path) -> tuple[int, bytes]:
    """What changes while pget works: the file's size, and where the system tells, bytes read.

    The file alone grows a chunk at a time, which on a slow line takes minutes.
    """
    size = target.stat().st_size if target.exists() else 0
    try:
        return size, Path(f"/proc/{process.pid}/io").read_bytes().splitlines()[0]
    except OSError:
        return size, b""


def _watch(
    process: "subprocess.Popen[bytes]", url: str, target: Path, stall: float, progress: Progress
) -> int:
    """Wait for pget to end, but not while nothing happens."""
    last, since = (0, b""), time.monotonic()
    while True:
        try:
            return process.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            now = _signs_of_life(process, target)
            if now != last:
                progress(now[0] - last[0])
                last, since = now, time.monotonic()
            elif time.monotonic() - since > stall:
                raise _failed(url, f"no byte for {stall:g} s") from None


def download(url: str, target: Path, settings: FetchSettings, progress: Progress) -> None:
    """Bring `url` to the new file `target`, as pget understands that: unverified.

    `progress` is called with how much the file grew since the last look.

    Raises:
        OperationError: pget is not there, failed or stalled.
    """
    program = shutil.which("pget")
    if program is None:
        raise _failed(url, "there is no pget on PATH")
    pid_file = target.with_name("pget.pid")
    command = [program, *_OPTIONS, "--pid-file", str(pid_file), url, str(target)]
    if setpriv := shutil.which("setpriv"):  # of util-linux: ends pget when we are killed
        command = [setpriv, "--pdeathsig", "KILL", *command]
    try:
        # A session of its own, so that nothing it started is left when it has to be killed.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:  # a program for another machine, say
        raise _failed(url, error.strerror or type(error).__name__) from None
    try:
        status = _watch(process, url, target, settings.stall_seconds, progress)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status != 0:
        what = f"exit status {status}" if status > 0 else f"killed by signal {-status}"
        raise _failed(url, what)
    if not target.is_file():
        raise _failed(url, "it ended well and left no file")
