"""Installs in processes of their own, of which a test may kill any: one Python that forks for each.

A fork takes milliseconds where a start of Python with its imports takes a quarter of a second. Run
as a program, this reads a line of JSON for each command and answers with one: a job is answered by
the id of its process, `{"wait": ID}` by its exit status, negative for a signal.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INSTALLED, REFUSED, CRASHED = 0, 1, 2

# What changes something on a disk, or asks for a lock.
_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "fcntl.flock"}


class InstallRunner:
    """The test's side. `prefix`: what the Python runs under, such as `unshare`."""

    def __init__(self, *prefix: str) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-W", "error", str(Path(__file__))],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def root(self) -> Path:
        """The root folder as the processes see it, mounts included."""
        return Path(f"/proc/{self._process.pid}/root")

    def start(
        self,
        lock_file: Path,
        destination: Path,
        log: Path,
        *,
        settings: Any,
        engine: str | None = None,
        mount_point: bool = False,
        die_at: int | None = None,
    ) -> int:
        """Start an install; the id of its process.

        `die_at`: it kills itself at its n-th change of something on a disk. `mount_point`: it
        takes the destination for one.
        """
        return self._ask(
            lock=str(lock_file),
            destination=str(destination),
            log=str(log),
            settings=asdict(settings),
            engine=engine,
            mount_point=mount_point,
            die_at=die_at,
        )

    def wait(self, process: int) -> int:
        return self._ask(wait=process)

    def install(self, *arguments: Any, **keywords: Any) -> int:
        return self.wait(self.start(*arguments, **keywords))

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._process.stdout.close()

    def _ask(self, **fields: Any) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{json.dumps(fields)}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def mount_namespace(folders: Sequence[Path], kind: str) -> list[str]:
    """The prefix for processes that see mounts on `folders`, which nobody else sees."""
    mount = {
        "tmpfs": 'mount -t tmpfs none "{0}"',
        # Of the same file system as what is around it, and yet nothing can be renamed onto it.
        "bind": 'mkdir "{1}" && mount --bind "{1}" "{0}"',
    }[kind]
    steps = [mount.format(folder, folder.parent.with_suffix(".source")) for folder in folders]
    script = " && ".join([*steps, 'exec "$@"'])
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


# The other side.


def _die_at(count: int, folder: str) -> None:
    """Kill this process when it changes something for the `count`-th time."""
    left = count

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in _CHANGES or (event == "open" and str(arguments[0]).startswith(folder)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _run(job: dict[str, Any]) -> int:
    import logging

    from weights.errors import UserError
    from weights.fetching.settings import FetchSettings
    from weights.install import install
    from weights.lock import read_lock

    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    destination = Path(job["destination"])
    if job["mount_point"]:
        is_mount = os.path.ismount
        os.path.ismount = lambda path: Path(path) == destination or is_mount(path)
    lock = read_lock(Path(job["lock"]))
    if job["die_at"]:
        _die_at(job["die_at"], str(destination.parent))
    try:
        install(lock, destination, engine=job["engine"], settings=FetchSettings(**job["settings"]))
    except UserError as error:
        logging.info("%s: %s", type(error).__name__, error)
        return REFUSED
    return INSTALLED


def _fork(job: dict[str, Any]) -> int:
    process = os.fork()
    if process:
        return process
    status = CRASHED
    try:
        status = _run(job)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    # What an install needs, before the first fork.
    import requests  # noqa: F401

    import weights.install  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            answer = os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1])
        else:
            answer = _fork(job)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
