"""The log as lines on stderr, for whoever watches a command or a container."""

import logging
import sys


class _Lines(logging.Handler):
    """Prints each message as a line, on the stderr of now or on the process's own."""

    def __init__(self, *, own_stderr: bool) -> None:
        super().__init__()
        self.own_stderr = own_stderr

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.__stderr__ if self.own_stderr else sys.stderr
        print(self.format(record), file=stream, flush=True)


def show_log(*, own_stderr: bool = False) -> None:
    """Print what `weights` logs, information included: which engine fetches, and why.

    Called again it only takes the new setting.

    Args:
        own_stderr: print past whatever stands in for `sys.stderr`: during a prediction that is the
            log that Cog sends its user.
    """
    log = logging.getLogger("weights")
    log.setLevel(logging.INFO)
    shown = [handler for handler in log.handlers if isinstance(handler, _Lines)]
    for handler in shown:
        handler.own_stderr = own_stderr
    if not shown:
        log.addHandler(_Lines(own_stderr=own_stderr))
