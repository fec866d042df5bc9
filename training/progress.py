"""The steps of a training run, with a bar for whoever watches and a line a minute for a log."""

import sys
import time
from collections.abc import Iterator

_LINE_SECONDS = 60.0


class Steps:
    """Iterates over the steps from `first` to before `last`, and shows where it is."""

    def __init__(self, label: str, first: int, last: int) -> None:
        self._label, self._first, self._last = label, first, last

    def __iter__(self) -> Iterator[int]:
        from tqdm import tqdm

        steps = range(self._first, self._last)
        if sys.stderr.isatty():
            yield from tqdm(steps, self._label, initial=self._first, total=self._last)
            return
        started = said = time.monotonic()
        for step in steps:
            yield step
            if time.monotonic() - said > _LINE_SECONDS:
                said = time.monotonic()
                left = (said - started) / (step + 1 - self._first) * (self._last - step - 1)
                line = f"{self._label}: step {step + 1} of {self._last}, {left / 60:.0f} min left"
                print(line, file=sys.stderr, flush=True)
