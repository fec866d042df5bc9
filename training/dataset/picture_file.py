"""A picture of a dataset, read as the predictors read the image of a request."""

import warnings
from pathlib import Path

from PIL import Image

from predictors.image_decoder import decode
from predictors.input_image import MAX_BYTES
from training.dataset.clip import UnusableClipError
from weights.errors import UserError

_REMEDY = "Save it anew as JPEG or PNG in an image editor, or leave it out."


def read_picture(path: Path, size: tuple[int, int]) -> Image.Image:
    """Read a picture: RGB, upright by its EXIF orientation, transparent parts white.

    `size` is the (width, height) that it will be cropped to; of one that is far larger a reduced
    form may come.

    Raises:
        UnusableClipError: it is not a PNG, JPEG, WebP or GIF file, or damaged, or of a size that
            makes no sense.
    """
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise UnusableClipError(
                f"It has {path.stat().st_size / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f} MB.",
                _REMEDY,
            )
        data = path.read_bytes()
    except OSError as error:
        raise UnusableClipError(
            f"It can't be read ({error.strerror}).", "Put the picture itself there."
        ) from None
    # What Pillow warns of is refused or harmless: too many pixels, odd metadata.
    with warnings.catch_warnings(action="ignore"):
        try:
            return decode(data, 2 * max(size))
        except UserError as error:
            given = error.given.removeprefix("image ")
            raise UnusableClipError(f"It {given} {error.expected}", _REMEDY) from None
