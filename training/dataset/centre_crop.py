"""The middle of a picture at the size of the training, as SAT crops it.

SAT's `resize_for_rectangle_crop` (zai-org/CogVideo, `sat/data_video.py`) in its mode "center":
the picture is scaled, in its own shape, until it just covers the size, its other side rounded down;
then as much is cut off on one side as on the other, a pixel more at the end.
"""

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class CentreCrop:
    """How a picture comes to the training's size, in pixels after scaling."""

    scaled: tuple[int, int]
    """Width and height of all of the picture."""
    left: int
    top: int
    size: tuple[int, int]
    """Width and height of what stays."""

    @property
    def kept(self) -> float:
        """The share of the picture that stays."""
        return self.size[0] * self.size[1] / (self.scaled[0] * self.scaled[1])


def centre_crop(shape: tuple[int, int], size: tuple[int, int]) -> CentreCrop:
    """How a picture that is shown with the (width, height) `shape` is cropped to `size`."""
    (width, height), (to_width, to_height) = shape, size
    if width * to_height > height * to_width:
        scaled = (width * to_height // height, to_height)
    else:
        scaled = (to_width, height * to_width // width)
    left, top = (scaled[0] - to_width) // 2, (scaled[1] - to_height) // 2
    return CentreCrop(scaled=scaled, left=left, top=top, size=size)


def cropped(image: Image.Image, crop: CentreCrop) -> Image.Image:
    """The part of `image` that stays, at the training's size.

    Pillow's bicubic filter widens when a picture becomes smaller, as torchvision's, which SAT uses,
    does with antialiasing. Only the part that stays is computed: a panorama that covers the
    training's height may have a hundred times its width.
    """
    across, down = image.width / crop.scaled[0], image.height / crop.scaled[1]
    width, height = crop.size
    box = (
        crop.left * across,
        crop.top * down,
        min((crop.left + width) * across, image.width),
        min((crop.top + height) * down, image.height),
    )
    return image.resize(crop.size, Image.Resampling.BICUBIC, box)
