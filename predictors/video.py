"""Frames to a video file with a note of how it was made, and back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image

from predictors.gif import write_gif
from weights.atomic import replacing

OutputFormat = Literal["mp4", "webm", "gif"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)

DEFAULT_QUALITY = 80

# The muxers put in neither version numbers nor random identifiers: the same frames always give the
# same bytes.
_BIT_EXACT = {"fflags": "+bitexact"}
# BT.709 has the number 1 in each of the tables that say how to read colours (ITU-T H.273). Without
# the tags players guess from the size of the picture, and some guess wrong.
_BT709 = 1


def write_video(
    frames: np.ndarray,
    path: Path,
    *,
    fps: int,
    output_format: OutputFormat = "mp4",
    quality: int = DEFAULT_QUALITY,
    metadata: Mapping[str, str] | None = None,
    one_thread: bool = False,
) -> None:
    """Write `frames` as a video that browsers play; at `path` it is whole or not at all.

    The same frames give the same bytes on machines with as many cores.

    Args:
        frames: (frames, height, width, 3) uint8 RGB, height and width even.
        fps: frames per second. A GIF's own clock ticks 100 times a second: each of its frames ends
            on the tick next to its time, so that the whole lasts as long as the others.
        quality: 1 to 100. MP4 is H.264 with the rate factor 50 - 0.4 · quality: 18, visually
            lossless, at 80. WebM is VP9 with 62 - 0.6 · quality. GIF has 255 colours from 80 on,
            fewer below.
        metadata: what the file shall say of its making, for `read_metadata`.
        one_thread: MP4 is encoded by one core, to the same bytes on every machine: x264 cuts a
            frame according to the number of its threads.

    Raises:
        OSError: the file can't be written.
    """
    comment = None if metadata is None else json.dumps(dict(metadata), sort_keys=True)
    with replacing(path) as file:
        temporary = Path(file.name)
        if output_format == "mp4":
            _write_mp4(frames, temporary, fps, quality, comment, one_thread)
        elif output_format == "webm":
            _write_webm(frames, temporary, fps, quality, comment)
        else:
            write_gif(frames, temporary, fps=fps, quality=quality, comment=comment)


def _write_mp4(
    frames: np.ndarray, path: Path, fps: int, quality: int, comment: str | None, one_thread: bool
) -> None:
    # `veryfast` takes no longer than imageio's default and writes the 4:2:0 profile that every
    # browser plays. With macroblock trees x264 gave the same frames other bytes from one run to
    # the next.
    codec = {
        "crf": f"{50 - 0.4 * quality:.1f}",
        "preset": "veryfast",
        "x264-params": "mbtree=0" + ":threads=1:lookahead-threads=1" * one_thread,
    }
    with av.open(
        path, "w", format="mp4", options=_BIT_EXACT | {"movflags": "+faststart"}
    ) as container:
        _encode(
            frames, container, container.add_stream("libx264", rate=fps, options=codec), comment
        )


def _write_webm(
    frames: np.ndarray, path: Path, fps: int, quality: int, comment: str | None
) -> None:
    # A fifth of the CPU time of `good` with 5, and as near to the frames, for files half as big
    # again. A bit rate of 0 leaves crf alone to decide.
    codec = {
        "crf": f"{62 - 0.6 * quality:.0f}",
        "b": "0",
        "deadline": "realtime",
        "cpu-used": "6",
        "row-mt": "1",
    }
    with av.open(path, "w", format="webm", options=_BIT_EXACT) as container:
        stream = container.add_stream("libvpx-vp9", rate=fps, options=codec)
        _encode(frames, container, stream, comment)


def _encode(
    frames: np.ndarray,
    container: av.container.OutputContainer,
    stream: av.VideoStream,
    comment: str | None,
) -> None:
    _, height, width, _ = frames.shape
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = _BT709
    context.color_range = ColorRange.MPEG
    if comment is not None:
        container.metadata["comment"] = comment
    reformatter = VideoReformatter()
    for image in frames:
        frame = reformatter.reformat(
            av.VideoFrame.from_ndarray(image, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def read_video(path: Path) -> tuple[np.ndarray, float]:
    """The frames of a video, (frames, height, width, 3) uint8 RGB, and its frames per second.

    Of a GIF, whose frames last whole hundredths of a second, it is the mean.
    """
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        if container.format.name == "gif":
            return np.stack(frames), len(frames) * av.time_base / container.duration
        return np.stack(frames), float(stream.average_rate)


def read_metadata(path: Path) -> dict[str, str]:
    """What `write_video` put into the file; empty if it put in nothing or did not write it."""
    with av.open(path) as container:
        tags = {name.lower(): text for name, text in container.metadata.items()}
    try:
        metadata = json.loads(tags.get("comment", ""))
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def contact_sheet(video: Path, png: Path, columns: int = 5) -> None:
    """Write every frame of `video`, in reading order, as one PNG of `columns` columns."""
    frames, _ = read_video(video)
    count, height, width, _ = frames.shape
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(frame), (column * width, row * height))
    sheet.save(png)
