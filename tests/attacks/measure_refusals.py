"""Opens each file of a folder in a process of its own and says what it cost, as JSON lines.

Usage: python measure_refusals.py FOLDER

The baseline is this process after the import of conversion.checkpoint, which does not import
torch. Each file is opened in a fork of it: the growth is the fork's peak resident memory
(getrusage, ru_maxrss) above its resident memory at the start. Memory and time that torch would
need for its import count, should a file get as far.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

from conversion.checkpoint import open_checkpoint
from weights.errors import UserError


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _measured(path: Path) -> dict[str, object]:
    before, started = _resident(), time.perf_counter()
    files = _open_files()
    try:
        open_checkpoint(path)
        outcome, message = "opened", ""
    except UserError as error:
        outcome, message = "refused", str(error)
    except BaseException as error:
        outcome, message = type(error).__name__, str(error)[:300]
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "outcome": outcome,
        "message": message,
        "seconds": seconds,
        "grown": max(0, peak - before),
        "torch": "torch" in sys.modules,
        "files_left_open": _open_files() - files,
    }


def _in_a_fork(path: Path) -> dict[str, object]:
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        # A hang must not hold up the others: the alarm ends the fork.
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        with os.fdopen(writer, "w") as pipe:
            json.dump(_measured(path), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        report = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(report) if report else {"outcome": f"ended with status {status}"}


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).iterdir()):
        print(json.dumps({"path": str(path), **_in_a_fork(path)}), flush=True)
