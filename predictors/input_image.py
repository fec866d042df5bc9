"""The image of an image-to-video request: from what Cog hands over to the video's first frame."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import PIL
from PIL import Image, ImageOps

from predictors.image_decoder import too_costly
from predictors.operator_log import tell_operator
from weights.errors import OperationError, UserError
from weights.variants import VARIANTS

ImageFit = Literal["crop", "pad", "stretch"]

MAX_BYTES = 50_000_000
# Twice the longest side of any video: scaling down from there loses nothing that could be seen.
_DETAIL = 2 * max(side for v in VARIANTS.values() for size in v.legal_sizes for side in size)
_DECODER = (sys.executable, "-W", "ignore", "-S", "-P", "-m", "predictors.image_decoder")
# Without `site` the decoder starts in half the time; it needs no more than Pillow and us.
_DECODER_PATHS = (Path(__file__).parents[1], Path(PIL.__file__).parents[1])


def read_image(given: object) -> Image.Image:
    """Read the picture that a request brought along: RGB, upright, in the colours of sRGB.

    `given` is what Cog hands to the runner: the path of a temporary file, where the request had a
    URL or a data URI. Anything else that the request had arrives as it was sent, and is refused:
    opening a file whose name a stranger chose would show them this machine's files.

    PNG, JPEG, WebP and GIF (its first frame) are read in any mode, see `image_decoder.decode`,
    which runs in a process of its own with limits on its memory and time.

    Raises:
        UserError: `given` is no file that was sent along, or not a picture that can be used.
        OperationError: the decoder did not run.
    """
    if not isinstance(given, Path) or not given.is_file():
        raise UserError(
            "image is not a file that was sent along.",
            "It must be an http or https URL, a data URI or an upload.",
            "Send the picture as data:image/jpeg;base64,… or, with `cog run`, as -i image=@FILE.",
        )
    size = given.stat().st_size
    if size > MAX_BYTES:
        raise UserError(
            f"image is a file of {size / 1e6:.0f} MB.",
            f"It may have {MAX_BYTES / 1e6:.0f} MB at most.",
            "Scale the picture down, or save it as JPEG.",
        )
    answer, _, pixels = _decoder_output(given).partition(b"\n")
    result = json.loads(answer)
    if "refused" in result:
        raise UserError(*result["refused"])
    return Image.frombytes("RGB", tuple(result["size"]), pixels)


def fit_image(image: Image.Image, width: int, height: int, fit: ImageFit) -> Image.Image:
    """`image` at exactly `width`×`height` pixels; one that has this size keeps its pixels.

    - crop: what is too wide or too high is cut off, as much on one side as on the other.
    - pad: all of the image is kept, between black bars of equal width.
    - stretch: all of the image is kept, in another shape.
    """
    size = (width, height)
    if fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    if fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS, color="black")
    return image.resize(size, Image.Resampling.LANCZOS)


def _decoder_output(path: Path) -> bytes:
    search = os.pathsep.join(str(folder) for folder in _DECODER_PATHS)
    with path.open("rb") as file:
        done = subprocess.run(
            [*_DECODER, str(_DETAIL)],
            stdin=file,
            capture_output=True,
            env=os.environ | {"PYTHONPATH": search},
        )
    if done.returncode < 0:
        raise too_costly()
    if done.returncode > 0:
        tell_operator(done.stderr.decode(errors="replace"))
        raise OperationError(
            "The program that decodes images did not run.",
            "It is a part of this installation and needs Pillow.",
            "See the server's log for what stopped it.",
        )
    return done.stdout
