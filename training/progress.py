"""The steps of a training run, with a bar for whoever watches and a line a minute for a log.

What `about` says of the last step, such as its loss, is shown with both; in a log it gets a line of
its own at the end, so that a run of seconds tells something too.
"""

import sys
import time
from collections.abc import Iterator

_LINE_SECONDS = 60.0


class Steps:
    """Iterates over the steps from `first` to before `last`, and shows where it is."""

    about = ""

    def __init__(self, label: str, first: int, last: int, *, shown: bool = True) -> None:
        self._label, self._first, self._last, self._shown = label, first, last, shown

    def __iter__(self) -> Iterator[int]:
        from tqdm import tqdm

        steps = range(self._first, self._last)
        if not self._shown:
            yield from steps
            return
        if sys.stderr.isatty():
            with tqdm(steps, self._label, initial=self._first, total=self._last) as bar:
                for step in bar:
                    yield step
                    bar.set_postfix_str(self.about, refresh=False)
            return
        started = said = time.monotonic()
        for step in steps:
            yield step
            if time.monotonic() - said > _LINE_SECONDS:
                said = time.monotonic()
                left = (said - started) / (step + 1 - self._first) * (self._last - step - 1)
                self._say(step + 1, f"{left / 60:.0f} min left")
            elif self.about and step + 1 == self._last:
                self._say(step + 1)

    def _say(self, done: int, *more: str) -> None:
        parts = [f"{self._label}: step {done} of {self._last}", *more, *filter(None, [self.about])]
        print(", ".join(parts), file=sys.stderr, flush=True)
