"""Frames to an animated GIF: one palette, dithering, delays that add up, a comment."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

_TICKS = 100
# One of the 256 entries stays free for "as in the frame before", which makes still parts small.
_MAX_COLOURS = 255
_SAMPLES = 200_000
# Signature and logical screen descriptor; the NETSCAPE2.0 extension with the loop count.
_HEADER_BYTES = 13
_LOOP_BYTES = 19


def write_gif(
    frames: np.ndarray, path: Path, *, fps: int, quality: int, comment: str | None
) -> None:
    """Write (frames, height, width, 3) uint8 RGB as a GIF that plays for ever.

    Args:
        quality: 1 to 100: 18 to 255 colours, all of them from 80 on.
        comment: ASCII, for a comment block; None for none.
    """
    count, height, width, _ = frames.shape
    starts = [_tick(index, fps) for index in range(count + 1)]
    palette = _palette(frames, min(_MAX_COLOURS, 15 + 3 * quality))
    entries = _entries(palette)
    options = {"loop": "0", "final_delay": str(starts[-1] - starts[-2]), "fflags": "+bitexact"}
    with av.open(path, "w", format="gif", options=options) as container:
        stream = container.add_stream("gif", rate=_TICKS)
        stream.width, stream.height, stream.pix_fmt = width, height, "pal8"
        for image, start in zip(frames, starts[:-1], strict=True):
            indices = Image.fromarray(image).quantize(
                palette=palette, dither=Image.Dither.FLOYDSTEINBERG
            )
            frame = av.VideoFrame.from_ndarray((np.asarray(indices), entries), format="pal8")
            frame.pts, frame.time_base = start, Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if comment is not None:
        _insert_comment(path, comment.encode("ascii"))


def _tick(index: int, fps: int) -> int:
    """When frame `index` starts, in hundredths of a second, halves rounded up."""
    return (2 * index * _TICKS + fps) // (2 * fps)


def _palette(frames: np.ndarray, colours: int) -> Image.Image:
    """An image whose palette of at most `colours` suits all frames."""
    count, height, width, _ = frames.shape
    step = max(1, round((count * height * width / _SAMPLES) ** (1 / 3)))
    sample = np.ascontiguousarray(frames[::step, ::step, ::step]).reshape(1, -1, 3)
    # Of 32 levels a channel: noise gives each pixel a colour of its own, and to sort them all took
    # a hundred times as long. Of Pillow's methods the one that, dithered, came nearest.
    palette = Image.fromarray(sample & 0xF8).quantize(colours, method=Image.Quantize.MAXCOVERAGE)
    # Each colour becomes the mean of those that it stands for: flat areas need no dithering then.
    nearest = np.asarray(
        Image.fromarray(sample).quantize(palette=palette, dither=Image.Dither.NONE)
    )
    uses = np.bincount(nearest[0])
    sums = np.stack([np.bincount(nearest[0], sample[0, :, channel]) for channel in range(3)], -1)
    means = np.rint(sums[uses > 0] / uses[uses > 0, None]).astype(np.uint8)
    palette.putpalette(means.tobytes())
    return palette


def _entries(palette: Image.Image) -> np.ndarray:
    """The palette as FFmpeg wants it: (256, 4) uint8 ARGB, unused entries transparent."""
    colours = np.array(palette.getpalette("RGB"), np.uint8).reshape(-1, 3)
    entries = np.zeros((256, 4), np.uint8)
    entries[: len(colours), 0] = 255
    entries[: len(colours), 1:] = colours
    return entries


def _insert_comment(path: Path, text: bytes) -> None:
    """Add a comment extension (GIF89a, section 24), which FFmpeg does not write.

    It goes behind the loop count: some readers look for that one in the first place only.
    """
    gif = path.read_bytes()
    flags = gif[10]
    colour_table = 3 << ((flags & 7) + 1) if flags & 0x80 else 0
    here = _HEADER_BYTES + colour_table + _LOOP_BYTES
    blocks = [text[start : start + 255] for start in range(0, len(text), 255)]
    extension = b"".join(bytes([len(block)]) + block for block in blocks)
    path.write_bytes(gif[:here] + b"\x21\xfe" + extension + b"\x00" + gif[here:])
