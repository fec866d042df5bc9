"""Runs a command and measures it from outside: time, time until all is on disk, memory."""

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

_SAMPLE_SECONDS = 0.01


@dataclass
class Measured:
    """Runs of one command: seconds until it ends, seconds until all is on disk (`sync`), and peak
    anonymous memory in bytes."""

    seconds: list[float] = field(default_factory=list)
    synced: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


def _anonymous_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def measure(command: list[str], into: Measured) -> None:
    os.sync()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _anonymous_bytes(process.pid))
        time.sleep(_SAMPLE_SECONDS)
    if process.returncode:
        assert process.stderr is not None
        raise SystemExit(f"{command} failed:\n{process.stderr.read().decode()}")
    into.seconds.append(time.perf_counter() - started)
    os.sync()
    into.synced.append(time.perf_counter() - started)
    into.memory.append(peak)
