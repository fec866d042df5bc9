"""What a Cog server logs: JSON lines, read as they come."""

import json
import threading
from collections import deque
from collections.abc import Callable
from typing import IO

_TAIL_LINES = 40
# What the runner prints, coglet logs with its source (stdout or stderr), or under this target
# where it can't tell in time what the runner was doing.
_UNKNOWN_PRINT = "coglet::user"


class ServerLog:
    """Reads a server's output in a thread, so that its pipe never fills, until the server ends.

    `tail` holds the last lines; each line the runner printed goes to `on_line` as it comes.
    """

    def __init__(self, stream: IO[str], on_line: Callable[[str], object]) -> None:
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.prediction_ids: set[str] = set()
        self._stream = stream
        self._on_line = on_line
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until everything was read; the stream ends with the server."""
        self._thread.join(seconds)

    def _read(self) -> None:
        with self._stream as stream:
            for line in stream:
                self._take(line.rstrip("\n"))

    def _take(self, line: str) -> None:
        message, from_runner = line, True
        try:
            record = json.loads(line)
            fields = record["fields"]
            message = fields["message"]
            from_runner = "source" in fields or record["target"] == _UNKNOWN_PRINT
            if "prediction_id" in fields:
                self.prediction_ids.add(fields["prediction_id"])
        except (ValueError, KeyError, TypeError):
            pass  # Printed past coglet's log, as Python does when it can't even start.
        self.tail.append(message)
        if from_runner:
            self._on_line(message)
