"""How far a run is, on stderr: a bar for whoever watches, else a line a minute for a log."""

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from sampling.manifest import Record

_LINE_SECONDS = 60.0
# So many failures are shown as they come; all are in the manifest.
_SHOWN_FAILURES = 10


class Progress:
    """Counts what is done of `total`, with a rate and the time that is left.

    Args:
        label: what is counted, in the plural.
        before: how many were done before; they don't count for the rate.
        failed: how many have failed before.

    The clock runs, and a bar shows, from `start` on.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        before: int = 0,
        failed: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._total, self._before = label, total, before
        self._done, self._failed = before, failed
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._started = self._said = clock()
        self._bar: Any = None

    def start(self) -> None:
        self._started = self._said = self._clock()
        self._before = self._done
        if self._stream.isatty():
            self._bar = self._new_bar()

    def advance(self, count: int, failures: int = 0) -> None:
        """`count` more are done, and `failures` more have failed."""
        self._done += count
        self._failed += failures
        if self._bar is not None:
            if failures:
                self._bar.set_postfix_str(f"{self._failed} failed", refresh=False)
            self._bar.update(count + failures)
        elif self._clock() - self._said > _LINE_SECONDS:
            self._said = self._clock()
            self.tell(self._line())

    def tell(self, line: str) -> None:
        """A line of its own, above the bar."""
        # A terminal that is gone must not end the run.
        with suppress(OSError):
            if self._bar is not None:
                self._bar.write(line, file=self._stream)
            else:
                print(line, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _new_bar(self) -> Any:
        from tqdm import tqdm

        bar = tqdm(
            desc=self._label,
            total=self._total,
            initial=self._before + self._failed,
            file=self._stream,
            unit="",
            dynamic_ncols=True,
        )
        if self._failed:
            bar.set_postfix_str(f"{self._failed} failed")
        return bar

    def _line(self) -> str:
        seconds = self._said - self._started
        new = self._done - self._before
        left = self._total - self._done - self._failed
        rate = f"{60 * new / seconds:.3g} a minute"
        eta = f", {left * seconds / new / 60:.0f} min left" if new else ""
        return (
            f"{self._label}: {self._done} of {self._total} done, {self._failed} failed, {rate}{eta}"
        )


class ClipProgress:
    """Progress over clips, told by their records."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._shown = 0

    def add(self, records: "Iterable[Record]") -> None:
        for record in records:
            if record.error is None:
                self._progress.advance(1)
                continue
            self._progress.advance(0, 1)
            self._shown += 1
            if self._shown <= _SHOWN_FAILURES:
                self._progress.tell(f"Line {record.line} failed: {record.error}")
            if self._shown == _SHOWN_FAILURES:
                self._progress.tell("Further failures are in the manifest only.")
