#!/usr/bin/env python3
"""Stands in for Replicate's pget: its flags, and what it was seen to do, failures included.

It checks no digest, never tries again and waits for ever. A destination that exists, even an empty
one, is exit 1; what a failed or killed run wrote stays; objects that change mid-way end well with
wrong bytes; `-x` writes outside of its target for a hostile tarball. Tests put a copy of it on PATH
as `pget`. In the environment, PGET_STAND_IN says how it goes wrong by itself (see `_WAYS`), and
PGET_STAND_IN_LOG names a file to which each run adds its arguments as a line of JSON.
"""

import argparse
import fcntl
import io
import json
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

# The tarballs of the tests are small; the real chunks of 16 MB would each be one request.
_MOST_CHUNK_BYTES = 8 << 10
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        fail(message)


def fail(message: str) -> None:
    print(f"pget: {message}", file=sys.stderr)
    sys.exit(1)


def options() -> argparse.Namespace:
    parser = _Parser(prog="pget", allow_abbrev=False)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--pid-file", type=Path, default="/run/pget.pid")
    parser.add_argument("-m", "--chunk-size", default="125M")
    parser.add_argument("-c", "--concurrency", type=int, default=8)
    parser.add_argument("-x", "--extract", action="store_true")
    parser.add_argument("-f", "--force", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("url")
    parser.add_argument("destination", type=Path)
    return parser.parse_args()


def chunk_bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)B?", text)
    if not found:
        fail(f"invalid chunk size {text}")
    return min(int(found[1]) * _UNITS[found[2]], _MOST_CHUNK_BYTES)


def chunks(url: str, size: int) -> Iterator[bytes]:
    """The object chunk by chunk. Nothing is said of its version, and nobody stops a slow server."""
    start, total = 0, None
    while total is None or start < total:
        span = {"Range": f"bytes={start}-{start + size - 1}"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=span)) as answer:
            told = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            if not told:
                raise OSError("the server does not tell the size")
            total = total or int(told[1])
            data = answer.read()
        if not data:
            raise OSError("an empty answer")
        yield data
        start += len(data)


def extract(data: bytes, folder: Path) -> None:
    """The real one's guard looks at the first letters of a path, and at no link."""
    import tarfile  # here, since each of some hundred tests waits for this program to start

    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errorlevel=0) as tar:
        for member in tar:
            target = Path(os.path.normpath(folder / member.name))
            if not str(target).startswith(str(folder)):
                fail(f"illegal path {member.name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.isdir():
                target.mkdir(exist_ok=True)
            elif member.issym():
                target.symlink_to(member.linkname)
            elif member.islnk():
                target.hardlink_to(folder / member.linkname)
            elif member.isfile():
                target.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]


# How it goes wrong by itself: what is done with the whole object and the destination.


def right(data: bytes, destination: Path) -> None:
    with destination.open("ab") as file:
        file.write(data)


def wait_for_ever(data: bytes, destination: Path) -> None:
    right(data[: len(data) // 2], destination)
    while True:
        signal.pause()


def wait_stubbornly(data: bytes, destination: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait_for_ever(data, destination)


def leave_a_child(data: bytes, destination: Path) -> None:
    """A child that would go on for ever, if only its parent were ended."""
    if os.fork() == 0:
        signal.pause()
    wait_for_ever(data, destination)


def be_killed(data: bytes, destination: Path) -> None:
    right(data[: len(data) // 2], destination)
    os.kill(os.getpid(), signal.SIGKILL)


def stop_half_way(data: bytes, destination: Path) -> None:
    right(data[: len(data) // 2], destination)
    fail("connection reset by peer")


def flip_a_bit(data: bytes, destination: Path) -> None:
    """In the largest file, which begins somewhere before the middle of the tests' tarballs."""
    middle = len(data) // 2
    right(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], destination)


def dribble(data: bytes, destination: Path) -> None:
    step = len(data) // 8 + 1
    for start in range(0, len(data), step):
        right(data[start : start + step], destination)
        time.sleep(0.08)


def talk(data: bytes, destination: Path) -> None:
    """More on both outputs than a pipe holds, with what nobody should see among it."""
    for stream in (sys.stdout, sys.stderr):
        stream.write(f"{' '.join(sys.argv)}\n" * 4096)
        stream.flush()
    right(data, destination)


_WAYS: dict[str, Callable[[bytes, Path], None]] = {
    "ok": right,
    "exit1": lambda data, destination: fail("something went wrong"),
    "no_file": lambda data, destination: None,
    "reset": stop_half_way,
    "stall": wait_for_ever,
    "stubborn": wait_stubbornly,
    "child": leave_a_child,
    "killed": be_killed,
    "wrong_bytes": flip_a_bit,
    "truncated": lambda data, destination: right(data[: len(data) // 1024 * 512], destination),
    "too_long": lambda data, destination: right(data + bytes(512), destination),
    "slow": dribble,
    "noisy": talk,
}


def main() -> None:
    log = os.environ.get("PGET_STAND_IN_LOG")
    if log:
        with Path(log).open("a") as file:
            run = {"arguments": sys.argv[1:], "session": os.getsid(0)}
            file.write(f"{json.dumps(run)}\n")
    given = options()
    with given.pid_file.open("a") as pid_file:
        fcntl.flock(pid_file, fcntl.LOCK_EX)  # another one at work is waited for
        if os.path.lexists(given.destination) and not given.force:
            fail(f"destination {given.destination} already exists")
        try:
            data = b"".join(chunks(given.url, chunk_bytes(given.chunk_size)))
        except Exception as error:  # as a Go program would say it, URL and all
            fail(f"error downloading {given.url}: {error}")
        if given.extract:
            extract(data, given.destination)
        else:
            if given.force:
                given.destination.unlink(missing_ok=True)
            _WAYS[os.environ.get("PGET_STAND_IN", "ok")](data, given.destination)
        given.pid_file.unlink()


if __name__ == "__main__":
    main()
