"""Which frames of a video are seen when it is played at another rate.

The frame at a time is the one that a player shows then, by the frames' own time stamps: phones
write more or fewer frames in a second as the light allows, and the rate in the header is a mean.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from typing import Generic, TypeVar

T = TypeVar("T")

# Containers round time stamps, Matroska to 1/1000 s and GIF to 1/100 s: a frame that should begin
# at a time may say that it begins a bit later, by half of the latter at most.
_ROUNDING = Fraction(1, 200)


@dataclass(frozen=True, slots=True)
class TimedFrame(Generic[T]):
    """A frame, when it begins and how long it would last if none came after it, in seconds."""

    start: Fraction
    duration: Fraction
    picture: T


def first_shown(start: Fraction, fps: int) -> int:
    """The first k such that a frame that begins at `start` has begun at k/fps seconds."""
    return max(0, math.ceil((start - _ROUNDING) * fps))


def resampled(source: Iterable[TimedFrame[T]], fps: int, frames: int) -> Iterator[T]:
    """The pictures seen at 0, 1/fps, 2/fps … seconds: `frames` of them, fewer if the source ends.

    A picture comes again for as long as it is seen; of a source with any frames at least one comes.
    No more than two of the source's frames are held, and none is taken after the one that shows
    that all are there.

    Args:
        source: frames by time, `start` never falling, the first at 0.
    """
    given = 0
    last: TimedFrame[T] | None = None
    for frame in source:
        if last is not None:
            count = min(first_shown(frame.start, fps), frames) - given
            yield from repeat(last.picture, count)
            given += max(count, 0)
            if given == frames:
                return
        last = frame
    if last is not None:
        end = max(first_shown(last.start + last.duration, fps), 1)
        yield from repeat(last.picture, min(end, frames) - given)
