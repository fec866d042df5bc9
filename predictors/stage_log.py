"""One line in the log for each stage of a prediction, and its seconds as a metric."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Detail = str | int | float | bool


class StageLog:
    """Prints and records the stages of one prediction.

        log = StageLog(self.record_metric)
        with log.stage("encode_prompt") as details:
            details["cached"] = True

    prints `encode_prompt 0.12 s (cached)` and records the metric `timing.encode_prompt`; where
    COG_LOG_LEVEL is debug, the line is JSON. On a GPU a stage ends when its work there is done, its
    line has the peak of allocated memory, and the metric `peak_vram_gb` is the highest so far, in
    GB of 10⁹ bytes.
    """

    def __init__(self, record_metric: Callable[[str, float], object]) -> None:
        self._record_metric = record_metric
        self._as_json = os.environ.get("COG_LOG_LEVEL", "").lower() == "debug"
        self._peak_gb = 0.0

    def record(self, name: str, value: float) -> None:
        """Record a metric that is no stage's time."""
        self._record_metric(name, value)

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Detail]]:
        """Measure the block; what it puts into the dictionary goes into the line.

        A block that ends with an exception gets its line, with the exception's name, and no metric.
        """
        details: dict[str, Detail] = {}
        _reset_peak()
        started = time.monotonic()
        try:
            yield details
            peak_gb = _finished_peak_gb()
        except BaseException as error:
            details["stopped by"] = type(error).__name__
            self._print(name, time.monotonic() - started, details)
            raise
        seconds = time.monotonic() - started
        if peak_gb is not None:
            details["peak_vram_gb"] = round(peak_gb, 2)
            self._peak_gb = max(self._peak_gb, peak_gb)
            self._record_metric("peak_vram_gb", self._peak_gb)
        self._record_metric(f"timing.{name}", seconds)
        self._print(name, seconds, details)

    def _print(self, name: str, seconds: float, details: dict[str, Detail]) -> None:
        if self._as_json:
            print(json.dumps({"stage": name, "seconds": round(seconds, 3)} | details), flush=True)
            return
        shown = ", ".join(
            key if value is True else f"{key} {value}"
            for key, value in details.items()
            if value is not False
        )
        print(f"{name} {seconds:.2f} s" + (f" ({shown})" if shown else ""), flush=True)


def _reset_peak() -> None:
    import torch

    # A GPU that this process has not touched yet is left alone.
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def _finished_peak_gb() -> float | None:
    """The most memory allocated since the reset, once the GPU has done all it was sent."""
    import torch

    if not torch.cuda.is_initialized():
        return None
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() / 1e9)
