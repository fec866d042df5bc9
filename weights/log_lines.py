"""The log as lines on stderr, for whoever watches a command or a container.

Not for users: `sys.stderr` during a prediction is the log that Cog sends them.
"""

import logging
import sys


class _Lines(logging.Handler):
    """Prints each message as a line on the process's own stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.__stderr__, flush=True)


def show_log() -> None:
    """Print what `weights` logs, information included: which engine fetches, and why."""
    log = logging.getLogger("weights")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Lines) for handler in log.handlers):
        log.addHandler(_Lines())
