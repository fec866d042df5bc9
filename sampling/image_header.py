"""The size of a picture, from its header: thousands of lines are checked before any is sampled."""

from pathlib import Path
from typing import TYPE_CHECKING

from weights.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

# EXIF's orientations from this one on exchange width and height (Exif 2.3, tag 274).
_TURNED_BY_A_QUARTER, _LAST_ORIENTATION = 5, 8


def image_size(path: Path) -> tuple[int, int]:
    """Width and height, in pixels, of a picture as it is shown upright.

    Its pixels are not decoded: that they are all there shows when the clip is sampled.

    Raises:
        UserError: it is no picture of a format that is read.
        OSError: there is no file, or it can't be read.
    """
    from PIL import Image

    from predictors.image_decoder import FORMATS

    with path.open("rb") as file:
        try:
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                return (height, width) if _is_turned(image) else (width, height)
        # Pillow's readers raise whatever their parsing runs into.
        except Exception:
            raise UserError(
                f"image {path.name!r} can't be read.",
                f"A whole file of {', '.join(FORMATS)} is expected.",
                "Save it as one of these.",
            ) from None


def _is_turned(image: "Image.Image") -> bool:
    from PIL import ExifTags, Image

    try:
        # Not PngImageFile's own, which decodes the picture, in search of EXIF behind its pixels.
        orientation = Image.Image.getexif(image)[ExifTags.Base.Orientation]
        return _TURNED_BY_A_QUARTER <= int(orientation) <= _LAST_ORIENTATION
    except Exception:
        # Viewers show a picture whose EXIF is broken, as it lies.
        return False
