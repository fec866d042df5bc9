"""The log as lines on stderr, for whoever watches a command or a container."""

import logging
import sys


class _Lines(logging.Handler):
    """Prints each message as a line on what is stderr at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def show_log() -> None:
    """Print what `weights` logs, information included: which engine fetches, and why."""
    log = logging.getLogger("weights")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Lines) for handler in log.handlers):
        log.addHandler(_Lines())
