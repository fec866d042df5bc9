"""Whether other processes see the folder OUT: they look for a file that is put there for them."""

import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sampling.output_store import temporary_name
from weights.errors import UserError


@contextmanager
def probe_in(out: str) -> Iterator[Path | None]:
    """An empty file in the folder `out`, which exists; None for a bucket, which all see.

    Named and locked as OUT's temporary files are: one of a killed run is removed by the next.
    """
    if "://" in out:
        yield None
        return
    probe = Path(out).absolute() / temporary_name(".probe", secrets.token_hex(8))
    with probe.open("xb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield probe
        finally:
            probe.unlink(missing_ok=True)


def check_probe(probe: Path | None) -> None:
    """Look for a probe from another process.

    Raises:
        UserError: it is not there.
    """
    if probe is None or probe.is_file():
        return
    there = "is another one" if probe.parent.is_dir() else "does not exist"
    raise UserError(
        f"the folder OUT, {probe.parent}, {there} for a worker (process {os.getpid()} of "
        f"{socket.gethostname()}).",
        "Workers write their videos to OUT themselves: all machines must see the same folder.",
        "Choose a folder on a file system that all of them mount, or a bucket's URL.",
    )
