"""Clocks and gauges around a pipeline that runs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any


def synchronize() -> None:
    """Wait until the GPU has done all it was given; nothing to wait for without one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def card_name() -> str:
    """What the GPU calls itself; empty without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def allocated_memory() -> int:
    """Bytes that tensors take on the GPU right now; 0 without one."""
    import torch

    synchronize()
    return int(torch.cuda.memory_allocated())


class Stopwatch:
    """Seconds from its making, once the GPU is done."""

    def __init__(self) -> None:
        synchronize()
        self._started = time.monotonic()

    def seconds(self) -> float:
        synchronize()
        return time.monotonic() - self._started


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """The median time of `repeats` calls, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        watch = Stopwatch()
        call()
        times.append(watch.seconds())
    return median(times)


@dataclass(slots=True)
class Peak:
    """The most bytes that torch had allocated on the GPU; None while it is not known."""

    allocated: int | None = None


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Notes the peak of the block, on its end; without a GPU there is none to note."""
    import torch

    peak = Peak()
    if not torch.cuda.is_available():
        yield peak
        return
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    yield peak
    torch.cuda.synchronize()
    peak.allocated = torch.cuda.max_memory_allocated()


@dataclass(slots=True)
class CallTimes:
    """Moments in seconds: when each call of a module began, and when the last one ended."""

    starts: list[float] = field(default_factory=list)
    end: float = 0

    def durations(self) -> tuple[float, ...]:
        """The seconds from each call to the next, and of the last one."""
        moments = [*self.starts, self.end]
        return tuple(after - before for before, after in pairwise(moments))


@contextmanager
def call_times(module: Any, on_call: Callable[[], object]) -> Iterator[CallTimes]:
    """Notes the calls of `module` within the block.

    From one call of a transformer to the next is a whole step of sampling: with the scheduler, and
    with what moves weights. To wait for the GPU at each takes microseconds.

    Args:
        on_call: called first at each of them; what it raises ends the sampling.
    """
    times = CallTimes()

    def began(_module: Any, _inputs: Any) -> None:
        on_call()
        synchronize()
        times.starts.append(time.monotonic())

    def ended(_module: Any, _inputs: Any, _output: Any) -> None:
        synchronize()
        times.end = time.monotonic()

    handles = (module.register_forward_pre_hook(began), module.register_forward_hook(ended))
    try:
        yield times
    finally:
        for handle in handles:
            handle.remove()
