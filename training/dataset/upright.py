"""A decoded video frame as players show it: RGB, turned upright, with square pixels."""

import struct
from fractions import Fraction
from typing import Any

from PIL import Image

# What the upper left of a display matrix (a, b, c, d) means: a point (x, y), y down, is shown at
# (ax + cy, bx + dy). Phones write one of the first four, the others mirror.
_TURNS = {
    (1, 0, 0, 1): None,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
_ROTATIONS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    -180: Image.Transpose.ROTATE_180,
    -90: Image.Transpose.ROTATE_270,
}
_LYING = (
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)
# Beyond, a file's word for the shape of its pixels is taken for an error.
_MAX_STRETCH = 4


def turn_of(frame: Any) -> Image.Transpose | None:
    """What turns a frame (`av.VideoFrame`) upright, by the display matrix that phones write.

    A matrix that turns by other than right angles is ignored, as players do.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV 18 can't list the side data of a frame that has any of a kind it has no name for, as
        # stereo videos do. Its own reading of the matrix takes no notice of mirroring.
        return _ROTATIONS.get(frame.rotation)
    if matrix is None:
        return None
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    return _TURNS.get(tuple((value > 0) - (value < 0) for value in (a, b, c, d)))


def shown_shape(frame: Any, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """The width and height in pixels with which players show a frame.

    `pixel_aspect` is the width of a stored pixel by its height, None for 1.
    """
    width, height = frame.width, frame.height
    if pixel_aspect and 1 / _MAX_STRETCH <= pixel_aspect <= _MAX_STRETCH:
        width = max(1, round(width * pixel_aspect))
    return (height, width) if turn_of(frame) in _LYING else (width, height)


def upright_image(frame: Any) -> Image.Image:
    """A frame's pixels as an upright RGB picture, still with the pixels that are stored."""
    # A fifth of the time of `frame.to_image`, at 1920×1080.
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turn = turn_of(frame)
    return image if turn is None else image.transpose(turn)
