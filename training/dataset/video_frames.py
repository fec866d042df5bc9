"""A video file's frames with their times, one after the other, and what can be wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from predictors.image_decoder import MAX_PIXELS
from training.dataset.clip import UnusableClipError
from training.dataset.frame_times import TimedFrame

# FFmpeg looks at what a file holds and not at its name. Playlists and the like would make it open
# other files of this machine, so only these containers are read.
_CONTAINERS = ("mov", "matroska", "avi", "gif")
_COPY_AGAIN = "Copy it again from where it came from, or save it anew as MP4 in a video editor."
_THREADS = 4
_GIF_END = b";"
_END_BYTES = 1024
# A file that lacks fewer frames than these at its end is taken for whole: headers round.
_SLACK_FRAMES = 3


@contextmanager
def opened_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video: its `av.container.InputContainer`, and its `av.VideoStream`.

    Raises:
        UnusableClipError: it can't be opened, or has no pictures, here or while it is read.
    """
    options = {"format_whitelist": ",".join(_CONTAINERS), "max_pixels": str(MAX_PIXELS)}
    try:
        _check_file(path)
        # A relative path may begin like a protocol of FFmpeg's.
        with av.open(path.absolute(), options=options, metadata_errors="ignore") as container:
            # A cover of a song is a video stream, too.
            streams = [s for s in container.streams.video if not _is_attached_picture(s)]
            if not streams or streams[0].codec_context is None:
                raise UnusableClipError(
                    "It has no video that can be decoded.", "Use a file that has pictures."
                )
            yield container, streams[0]
    except (av.error.FFmpegError, OSError) as error:
        raise UnusableClipError(f"It can't be read ({error.strerror}).", _COPY_AGAIN) from None


def timed_frames(container: Any, stream: Any, path: Path) -> Iterator[TimedFrame[Any]]:
    """The frames (`av.VideoFrame`) of a video as they are decoded, the first at 0 seconds.

    Raises:
        UnusableClipError: a frame can't be decoded or is too large, there is none, or the file
            ends before its time. What comes after the last frame that was asked for isn't seen.
    """
    context = stream.codec_context
    context.options = {"max_pixels": str(MAX_PIXELS)}
    # Damage is found as many frames early as there are threads: on every machine the same.
    context.thread_type, context.thread_count = "AUTO", _THREADS
    _check_size(context.width, context.height)
    usual = Fraction(1) / (stream.average_rate or stream.guessed_rate or 25)
    begin, start, end = None, Fraction(0), Fraction(0)
    for frame in _decoded(container, stream):
        _check_size(frame.width, frame.height)
        base = frame.time_base or stream.time_base
        time = end if frame.pts is None else frame.pts * base
        begin = time if begin is None else begin
        start = max(start, time - begin)
        # What a file says of its last frame is often nothing, or a tick.
        duration = max((frame.duration or 0) * base, usual)
        end = start + duration
        yield TimedFrame(start, duration, frame)
    if begin is None:
        raise UnusableClipError("It has no frames.", _COPY_AGAIN)
    _check_whole(container, stream, path, end, usual)


def _is_attached_picture(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _check_file(path: Path) -> None:
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a file"
        raise UnusableClipError(f"It is {kind}.", "Put the video itself there.")
    if not path.stat().st_size:
        raise UnusableClipError("It is empty.", _COPY_AGAIN)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusableClipError(
            f"Its frames have {width}×{height} pixels, more than {MAX_PIXELS // 10**6} million.",
            "Scale it down: no variant makes videos of more than 2 million.",
        )


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    seconds = 0.0
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise _damaged(seconds, "a frame with errors")
            seconds = frame.time or seconds
            yield frame
    except av.error.FFmpegError as error:
        raise _damaged(seconds, error.strerror) from None


def _damaged(seconds: float, what: str) -> UnusableClipError:
    return UnusableClipError(f"It is damaged after {seconds:.2f} s ({what}).", _COPY_AGAIN)


def _check_whole(container: Any, stream: Any, path: Path, end: Fraction, usual: Fraction) -> None:
    """Compare where a file ended, `end` seconds on, with what it says of itself.

    FFmpeg ends without an error where a Matroska, AVI or GIF file was cut off.
    """
    declared = _declared_seconds(container, stream)
    if declared is not None and end + _SLACK_FRAMES * usual < declared:
        raise UnusableClipError(
            f"It ends after {float(end):.2f} s and says that it lasts {float(declared):.2f} s.",
            _COPY_AGAIN,
        )
    if container.format.name == "gif" and not _end_of(path).rstrip(b"\0").endswith(_GIF_END):
        raise UnusableClipError("It is a GIF without an end.", _COPY_AGAIN)


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        return file.read()


def _declared_seconds(container: Any, stream: Any) -> Fraction | None:
    if container.format.name == "avi":
        # Of a file without its end, where the index is, FFmpeg makes the duration up.
        return Fraction(stream.frames) / (stream.average_rate or 25)
    if stream.duration:
        return Fraction(stream.duration * stream.time_base)
    if "DURATION" in stream.metadata:
        return _clock_seconds(stream.metadata["DURATION"])
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, av.time_base)
    return None


def _clock_seconds(text: str) -> Fraction | None:
    """Seconds of `00:00:02.501000000`, as FFmpeg writes it into Matroska; None of anything else."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    except ValueError:
        return None
