"""Progress: a bar on a terminal, lines in a log, failures named, and never an error of its own."""

import io

import pytest

from sampling.manifest import Record
from sampling.progress import ClipProgress, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def record(line, error=None):
    return Record(
        line=line,
        prompt="",
        image=None,
        seed=0,
        settings={},
        key="",
        file=None,
        digest=None,
        bytes=None,
        seconds=None,
        error=error,
    )


def test_a_log_has_a_line_a_minute_with_rate_time_left_and_failures():
    stream, clock = io.StringIO(), Clock()
    progress = Progress("clips", 110, before=10, failed=1, stream=stream, clock=clock)
    progress.start()
    for second in range(1, 121):
        clock.now = float(second)
        progress.advance(0, 1) if second == 30 else progress.advance(second % 10 == 0)
    assert stream.getvalue() == ("clips: 15 of 110 done, 2 failed, 4.92 a minute, 19 min left\n")


def test_what_was_done_before_does_not_count_for_the_rate():
    stream, clock = io.StringIO(), Clock()
    progress = Progress("clips", 100, before=90, stream=stream, clock=clock)
    progress.start()
    clock.now = 61.0
    progress.advance(0)
    assert stream.getvalue() == "clips: 90 of 100 done, 0 failed, 0 a minute\n"


def test_a_terminal_has_a_bar_with_failures():
    stream = Terminal()
    progress = Progress("clips", 4, before=1, failed=1, stream=stream)
    progress.start()
    ClipProgress(progress).add([record(3), record(4, "It broke.")])
    progress.close()
    shown = stream.getvalue()
    assert "2/4" in shown
    assert "4/4" in shown
    assert "2 failed" in shown
    assert "Line 4 failed: It broke." in shown


def test_only_the_first_failures_are_shown():
    stream = io.StringIO()
    progress = Progress("clips", 100, stream=stream)
    ClipProgress(progress).add([record(n, "It broke.") for n in range(1, 51)])
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Line 1 failed: It broke."
    assert lines[-1] == "Further failures are in the manifest only."
    assert len(lines) == 11


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_stream_that_is_gone_does_not_end_the_run(kind):
    class Gone(kind):
        def write(self, _):
            raise BrokenPipeError

    progress = Progress("clips", 3, stream=Gone())
    progress.tell("Line 1 failed")
