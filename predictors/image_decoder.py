"""Decodes one picture from stdin: python -m predictors.image_decoder DETAIL < FILE

A program of its own, because the picture is a stranger's and its decoders are C libraries: one made
to crash, to fill the memory or to run for hours ends this process, and not the worker, which Cog
never starts again. It imports little, so that it starts in some 50 ms.

stdout is a line of JSON. It is {"refused": [given, expected, remedy]}, or {"size": [width, height]}
followed by the pixels, (height, width, 3) uint8 RGB.
"""

import io
import json
import resource
import sys

from PIL import (
    ExifTags,
    Image,
    WebPImagePlugin,  # noqa: F401  Else Pillow imports all its readers to find this one.
)

from weights.errors import UserError

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
# The full picture of a 64 megapixel phone, below what Pillow itself calls a decompression bomb.
MAX_PIXELS = 65_000_000
MIN_SIDE = 32
MAX_RATIO = 10
# Four times what that one takes.
MAX_CPU_SECONDS = 10
# A transparent WebP of MAX_PIXELS with a colour profile, the most expensive picture, took 1.4 GB.
MAX_MEMORY = 3 << 30
BACKGROUND = (255, 255, 255)

_SIGNATURES = {
    "a PNG file": (0, b"\x89PNG"),
    "a JPEG file": (0, b"\xff\xd8"),
    "a WebP file": (8, b"WEBP"),
    "a GIF file": (0, b"GIF8"),
}
_FOREIGN_SIGNATURES = {
    "a HEIC photo": (4, b"ftyphei"),
    "a HEIF photo": (4, b"ftypmif1"),
    "an AVIF file": (4, b"ftypavif"),
    "a video": (4, b"ftyp"),
    "a TIFF file": (0, b"II*\0"),
    "a TIFF file, big-endian": (0, b"MM\0*"),
    "a BMP file": (0, b"BM"),
    "a PDF file": (0, b"%PDF"),
}
# What turns a picture of each EXIF orientation upright (Exif 2.3, tag 274).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, detail: int) -> Image.Image:
    """The first frame of a PNG, JPEG, WebP or GIF file: RGB, upright, in the colours of sRGB.

    What is transparent gets a white BACKGROUND: pictures with transparency are mostly drawn for
    light pages, and black lines would vanish on black. A picture that has more than `detail`
    pixels on its shorter side is made smaller by a whole factor, to no less than that.

    Raises:
        UserError: the file is none of these, damaged, or of a size that makes no sense.
        MemoryError: it takes more than this process may have.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            # JPEGs can be decoded at a half, a quarter or an eighth of their size.
            image.draft(None, (detail, detail))
            image.load()
            rgb = _reduced(_srgb(_opaque(image), image.info.get("icc_profile")), detail)
            method = _turn(image)
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large() from None
    # Pillow's readers raise whatever their parsing runs into.
    except Exception as error:
        raise _unreadable(data) from error
    return rgb if method is None else rgb.transpose(method)


def too_costly() -> UserError:
    """What to say where the kernel ended the work, as it also does in a decoder's crash."""
    return UserError(
        "image could not be decoded within this server's limits of time and memory.",
        "Pictures as cameras and image editors save them can.",
        "Open it in an image editor, save it anew as JPEG and send that.",
    )


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large()
    if min(width, height) < MIN_SIDE:
        raise UserError(
            f"image has {width}×{height} pixels.",
            f"Each side must have at least {MIN_SIDE}.",
            "Send a larger picture.",
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UserError(
            f"image has {width}×{height} pixels.",
            f"The longer side may be at most {MAX_RATIO} times the shorter one.",
            "Cut out the part that the video should show.",
        )


def _too_large() -> UserError:
    return UserError(
        f"image has more than {MAX_PIXELS // 10**6} million pixels.",
        f"It may have {MAX_PIXELS // 10**6} million at most.",
        "Scale it down: no video has more than 2 million.",
    )


def _unreadable(data: bytes) -> UserError:
    def kind(signatures: dict[str, tuple[int, bytes]]) -> str | None:
        matches = (name for name, (at, magic) in signatures.items() if data.startswith(magic, at))
        return next(matches, None)

    if damaged := kind(_SIGNATURES):
        return UserError(
            f"image is {damaged} that is damaged or incomplete.",
            "Every byte must be there as it was saved.",
            "Send it again, or open it in an image editor and save it anew.",
        )
    foreign = kind(_FOREIGN_SIGNATURES)
    return UserError(
        f"image is {foreign}." if foreign else "image is not a picture of a known format.",
        "It must be a PNG, JPEG, WebP or GIF file.",
        "Save or export it as JPEG and send that.",
    )


def _opaque(image: Image.Image) -> Image.Image:
    """The picture without palette and transparency, in mode L, RGB or CMYK."""
    if image.mode.startswith("I;16"):
        image = _eight_bit(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        opaque = Image.new("RGB", rgba.size, BACKGROUND)
        opaque.paste(rgba, mask=rgba)
        return opaque
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 instead of scaling.
    grey = image.point(lambda value: value / 257 + 0.5).convert("L")
    if "transparency" in image.info:
        grey.info["transparency"] = round(image.info["transparency"] / 257)
    return grey


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture's colours in sRGB; a phone's are often those of Display P3."""
    if profile:
        from PIL import ImageCms

        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            # A broken profile, or one for other channels: viewers ignore it, too.
            return image.convert("RGB")
        if converted is not None:
            return converted
    return image if image.mode == "RGB" else image.convert("RGB")


def _reduced(image: Image.Image, detail: int) -> Image.Image:
    factor = min(image.size) // detail
    return image.reduce(factor) if factor > 1 else image


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns the picture upright, where it needs to be turned."""
    try:
        return _UPRIGHT.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:
        # Viewers show a picture whose EXIF is broken, as it lies.
        return None


def _limit_this_process() -> None:
    """Let the kernel end this process where a picture asks for too much."""
    limits = {resource.RLIMIT_CPU: MAX_CPU_SECONDS, resource.RLIMIT_CORE: 0}
    if sys.platform == "linux":  # macOS refuses the one for memory
        limits[resource.RLIMIT_AS] = MAX_MEMORY
    for limit, most in limits.items():
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, hard))


def main() -> None:
    _limit_this_process()
    try:
        image = decode(sys.stdin.buffer.read(), detail=int(sys.argv[1]))
        pixels = image.tobytes()
    except UserError as error:
        _answer(_refused(error))
    # At any step: also turning the picture, and taking its bytes, need as much again.
    except MemoryError:
        _answer(_refused(too_costly()))
    else:
        _answer({"size": image.size}, pixels)


def _refused(error: UserError) -> dict[str, object]:
    return {"refused": (error.given, error.expected, error.remedy)}


def _answer(first_line: dict[str, object], pixels: bytes = b"") -> None:
    sys.stdout.buffer.write(json.dumps(first_line).encode() + b"\n")
    sys.stdout.buffer.write(pixels)


if __name__ == "__main__":
    main()
