"""The width and height of a video: what the request says, or what suits its image best."""

import math

from weights.errors import UserError
from weights.variants import Variant

Size = tuple[int, int]


def frame_size(
    variant: Variant, width: float, height: float, image_size: Size | None = None
) -> Size:
    """The (width, height) in pixels of a video of `variant`.

    0 leaves a side to us: of the legal sizes that agree with the other side we take the one whose
    shape is closest to the image's, or to the variant's own where there is no image (`image_size`
    None). Whole numbers may come as floats: Cog hands a JSON 768.0 through as it is.

    Raises:
        UserError: `variant` makes no videos of that size.
    """
    wanted = (_pixels("width", width), _pixels("height", height))
    sizes = [size for size in variant.legal_sizes if _agrees(size, wanted)]
    if not sizes:
        raise _not_legal(variant, wanted)
    own = (variant.width, variant.height)
    return min(
        sizes, key=lambda size: (_difference(size, image_size or own), _difference(size, own))
    )


def shown_sizes(variant: Variant) -> str:
    """The legal sizes in words: `720×480`."""
    sizes = variant.legal_sizes
    if len(sizes) == 1:
        return f"{variant.width}×{variant.height}"
    short, *others, last = sorted({side for size in sizes for side in size})
    return f"{short} by {short}, {others[0]}, … {last}, wide or upright"


def _pixels(name: str, value: float) -> int:
    # The remainder of what is not a finite number is not a number, which counts as true.
    if value < 0 or value % 1:
        raise UserError(
            f"{name} is {value}.",
            "It must be a whole number of pixels, or 0.",
            "Use 0 to have it chosen.",
        )
    return int(value)


def _agrees(size: Size, wanted: Size) -> bool:
    return all(side in (0, legal) for side, legal in zip(wanted, size, strict=True))


def _difference(size: Size, other: Size) -> float:
    """How far apart two shapes are: nothing for the same aspect ratio, else the larger the more."""
    return abs(math.log(size[0] * other[1] / (size[1] * other[0])))


def _not_legal(variant: Variant, wanted: Size) -> UserError:
    def distance(size: Size) -> int:
        return sum(abs(side - legal) for side, legal in zip(wanted, size, strict=True) if side)

    width, height = min(variant.legal_sizes, key=distance)
    given = {"width": wanted[0], "height": wanted[1]}
    return UserError(
        " and ".join(f"{name} is {side}" for name, side in given.items() if side) + ".",
        f"{variant.name} makes videos of {shown_sizes(variant)}.",
        f"Use width {width} and height {height}, or 0 to have them chosen.",
    )
