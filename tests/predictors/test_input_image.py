"""Pictures of every kind come out as viewers show them; what is no picture never gets that far."""

import io
import json
import math
import struct
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from cog import Path as CogPath
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile

from predictors import image_decoder, input_image
from predictors.image_decoder import decode
from predictors.input_image import MAX_BYTES, fit_image, read_image
from weights.errors import OperationError, UserError

WIDTH, HEIGHT = 64, 48
RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def halves(mode, left, right):
    """A picture of two colours side by side."""
    image = Image.new(mode, (WIDTH, HEIGHT), left)
    image.paste(right, (WIDTH // 2, 0, WIDTH, HEIGHT))
    return image


def palette(*colours):
    image = halves("P", 0, 1)
    image.putpalette(np.array(colours, np.uint8).tobytes())
    return image


def saved(image, format_name, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def png(depth, colour, left, right, *chunks):
    """A PNG of modes that Pillow does not write: `left` and `right` are the samples of a pixel."""
    row = b"\0" + struct.pack(f">{len(left)}H", *left) * (WIDTH // 2)
    row += struct.pack(f">{len(right)}H", *right) * (WIDTH // 2)
    header = struct.pack(">2I5B", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(row * HEIGHT)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def read(data, folder):
    path = CogPath(folder / "picture")
    path.write_bytes(data)
    return read_image(path)


@pytest.mark.parametrize(
    "given",
    ["/etc/hostname", "file:///etc/hostname", "", "aGVsbG8=" * 100, None, 7, b"/etc/hostname"],
)
def test_only_files_that_were_sent_along_are_read(given):
    with pytest.raises(UserError, match=r"^image is not a file that was sent along\.") as caught:
        read_image(given)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", [".", "missing"])
def test_paths_without_a_file_are_refused(name, tmp_path):
    with pytest.raises(UserError, match="not a file that was sent along"):
        read_image(CogPath(tmp_path / name))


def test_files_of_too_many_bytes_are_refused(tmp_path):
    path = CogPath(tmp_path / "picture")
    with path.open("wb") as file:
        file.truncate(MAX_BYTES * 2)
    with pytest.raises(UserError, match=r"is a file of 100 MB\. It may have 50 MB at most\."):
        read_image(path)


@pytest.mark.parametrize(
    ("data", "left", "right"),
    [
        (saved(halves("1", 1, 0), "PNG"), WHITE, BLACK),
        (saved(halves("L", 200, 9), "PNG"), (200,) * 3, (9,) * 3),
        (saved(halves("L", 200, 9), "PNG", transparency=9), (200,) * 3, WHITE),
        (saved(halves("LA", (200, 255), (9, 0)), "PNG"), (200,) * 3, WHITE),
        (saved(halves("RGB", RED, BLUE), "PNG"), RED, BLUE),
        (saved(halves("RGB", RED, BLUE), "PNG", transparency=RED), WHITE, BLUE),
        (saved(halves("RGBA", (*RED, 255), (*BLUE, 0)), "PNG"), RED, WHITE),
        (saved(halves("RGBA", (*RED, 51), (*BLUE, 255)), "PNG"), (255, 204, 204), BLUE),
        (saved(palette(RED, BLUE), "PNG"), RED, BLUE),
        (saved(palette(RED, BLUE), "PNG", transparency=0), WHITE, BLUE),
        (saved(palette(RED, BLUE), "PNG", transparency=b"\xff\x33"), RED, (204, 204, 255)),
        (png(16, 0, [0x8080], [0x00FF]), (128,) * 3, (1,) * 3),
        (png(16, 0, [0xFFFF], [0x40FF]), WHITE, (65,) * 3),
        (png(16, 0, [0xFFFF], [0x4000], (b"tRNS", b"\x40\0")), WHITE, WHITE),
        (png(16, 0, [0x4000], [0], (b"tRNS", b"\0\0")), (64,) * 3, WHITE),
        (png(16, 2, [0xFFFF, 0, 0x8080], [0, 0x1010, 0]), (255, 0, 128), (0, 16, 0)),
        (png(16, 4, [0x8080, 0xFFFF], [0, 0]), (128,) * 3, WHITE),
        (png(16, 6, [0xFFFF, 0, 0, 0xFFFF], [0, 0, 0, 0]), RED, WHITE),
        (saved(halves("L", 200, 9), "JPEG"), (200,) * 3, (9,) * 3),
        (saved(halves("RGB", RED, BLUE), "JPEG"), RED, BLUE),
        (saved(halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), "JPEG"), RED, BLACK),
        (saved(halves("RGB", RED, BLUE), "MPO"), RED, BLUE),
        (saved(halves("RGB", RED, BLUE), "WEBP", lossless=True), RED, BLUE),
        (saved(halves("RGBA", (*RED, 255), (9, 9, 9, 0)), "WEBP", lossless=True), RED, WHITE),
        (saved(palette(RED, BLUE), "GIF"), RED, BLUE),
        (saved(palette(RED, BLUE), "GIF", transparency=1), RED, WHITE),
        (saved(halves("L", 200, 9), "GIF"), (200,) * 3, (9,) * 3),
    ],
)
def test_every_mode_is_read_as_viewers_show_it(data, left, right, tmp_path):
    image = read(data, tmp_path)
    assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
    rounding = 3 if data.startswith(b"\xff\xd8") else 0
    for x, expected in ((10, left), (WIDTH - 10, right)):
        np.testing.assert_allclose(image.getpixel((x, HEIGHT // 2)), expected, atol=rounding)


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG"])
def test_of_animations_the_first_frame_is_read(format_name, tmp_path):
    frames = [halves("RGB", RED, BLUE), halves("RGB", WHITE, BLACK)]
    data = saved(frames[0], format_name, save_all=True, append_images=frames[1:], lossless=True)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert read(data, tmp_path).tobytes() == frames[0].tobytes()


STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    # A camera that was held turned to the right: its picture lies turned to the left.
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_turned_upright(orientation, format_name, tmp_path):
    upright = halves("RGB", RED, BLUE)
    upright.paste(WHITE, (0, 0, WIDTH // 2, HEIGHT // 2))
    method = STORED[orientation]
    stored = upright if method is None else upright.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(stored, format_name, exif=exif, quality=100)
    image = read(data, tmp_path)
    assert image.size == upright.size
    for x, y in ((8, 8), (8, 40), (56, 8), (56, 40)):
        np.testing.assert_allclose(image.getpixel((x, y)), upright.getpixel((x, y)), atol=9)


def profile(**renamed):
    """The ICC profile of sRGB with some of its tags under other names."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", data, 128)
    for at in range(132, 132 + 12 * count, 12):
        name = data[at : at + 4].decode()
        data[at : at + 4] = renamed.get(name, name).encode()
    return bytes(data)


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_colours_of_other_profiles_become_those_of_srgb(mode, tmp_path):
    picture = halves("RGB", RED, (0, 255, 0)).convert(mode)
    swapped = profile(rXYZ="bXYZ", bXYZ="rXYZ")
    image = read(saved(picture, "PNG", icc_profile=swapped), tmp_path)
    np.testing.assert_allclose(image.getpixel((9, 9)), BLUE, atol=2)
    np.testing.assert_allclose(image.getpixel((60, 9)), (0, 255, 0), atol=2)


@pytest.mark.parametrize(
    ("mode", "icc"), [("RGB", profile()), ("L", profile()), ("RGB", b"x" * 999), ("CMYK", b"")]
)
def test_profiles_that_say_nothing_else_change_nothing(mode, icc, tmp_path):
    picture = Image.radial_gradient("L").convert(mode)
    data = saved(picture, "JPEG", icc_profile=icc, quality=100)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)
    assert abs(np.asarray(read(data, tmp_path), int) - expected).max() <= 1


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_pictures_of_more_detail_than_a_video_shows_are_reduced(format_name):
    picture = Image.radial_gradient("L").resize((640, 480)).convert("RGB")
    data = saved(picture, format_name, quality=95)
    assert decode(data, detail=300).size == (640, 480)
    reduced = decode(data, detail=100)
    assert reduced.size == (160, 120)
    expected = np.asarray(picture.resize((160, 120), Image.Resampling.BOX), int)
    assert abs(np.asarray(reduced, int) - expected).mean() < 2


def test_a_phones_photo_keeps_its_detail(tmp_path):
    photo = Image.radial_gradient("L").resize((4032, 3024)).convert("RGB")
    assert read(saved(photo, "JPEG"), tmp_path).size == (4032, 3024)


def test_a_decoder_that_does_not_run_is_not_the_images_fault(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(input_image, "_DECODER_PATHS", (tmp_path,))
    with pytest.raises(OperationError, match="did not run"):
        read(saved(halves("RGB", RED, BLUE), "PNG"), tmp_path)
    assert "predictors" in capfd.readouterr().err


@pytest.mark.parametrize("step", ["load", "transpose", "tobytes"])
def test_wherever_the_memory_ends_it_is_said_that_the_picture_is_too_costly(
    step, monkeypatch, capsysbinary
):
    exif = Image.Exif()
    exif[0x0112] = 3
    file = io.BytesIO(saved(halves("RGB", RED, BLUE), "JPEG", exif=exif))

    def run_out(*_, **__):
        raise MemoryError

    monkeypatch.setattr(image_decoder, "_limit_this_process", lambda: None)
    monkeypatch.setattr(sys, "argv", ["image_decoder", "100"])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
    for kind in (Image.Image, JpegImageFile):
        monkeypatch.setattr(kind, step, run_out)
    image_decoder.main()
    error = image_decoder.too_costly()
    said = json.loads(capsysbinary.readouterr().out)
    assert said == {"refused": [error.given, error.expected, error.remedy]}


sides = st.integers(32, 400)
shapes = st.tuples(sides, sides).filter(lambda size: max(size) <= 10 * min(size))
targets = st.sampled_from([(64, 64), (720, 480), (360, 240), (240, 360), (343, 192), (33, 32)])


def marked(size):
    """A grey picture with a white square around its centre, of a third of its shorter side."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    reach = min(size) / 6
    inside = (abs(x - (width - 1) / 2) <= reach) & (abs(y - (height - 1) / 2) <= reach)
    grey = np.where(inside, 255, 64).astype(np.uint8)
    return Image.fromarray(np.repeat(grey[..., None], 3, axis=2))


def mark_of(image):
    """The mark's centre (x, y) and its extents (width, height) in pixels, from the light in it."""
    light = np.clip(np.asarray(image, float)[..., 0] - 64, 0, None) / 191
    across, down = light.sum(axis=0), light.sum(axis=1)
    centre = [(sums * np.arange(len(sums))).sum() / sums.sum() for sums in (across, down)]
    return centre, (light.max(axis=0).sum(), light.max(axis=1).sum())


@given(size=shapes, target=targets, fit=st.sampled_from(["crop", "pad", "stretch"]))
def test_the_size_is_exact_and_the_centre_stays(size, target, fit):
    fitted = fit_image(marked(size), *target, fit)
    assert (fitted.size, fitted.mode) == (target, "RGB")
    centre, _ = mark_of(fitted)
    middle = [(side - 1) / 2 for side in target]
    assert math.dist(centre, middle) <= 1


@given(size=shapes, target=targets, fit=st.sampled_from(["crop", "pad"]))
def test_only_stretch_stretches(size, target, fit):
    pick = max if fit == "crop" else min
    scale = pick(there / here for there, here in zip(target, size, strict=True))
    _, (here_wide, here_high) = mark_of(marked(size))
    _, (wide, high) = mark_of(fit_image(marked(size), *target, fit))
    # A pixel, and the ringing that a sharp edge leaves.
    assert wide == pytest.approx(here_wide * scale, abs=1, rel=0.02)
    assert high == pytest.approx(here_high * scale, abs=1, rel=0.02)


@given(size=shapes, target=targets)
def test_padding_is_black_and_on_both_sides(size, target):
    pixels = np.asarray(fit_image(Image.new("RGB", size, WHITE), *target, "pad"))
    assert set(np.unique(pixels)) <= {0, 255}
    rows, columns = (pixels.any(axis=(1, 2)), pixels.any(axis=(0, 2)))
    assert rows.all() or columns.all()
    for line in (rows, columns):
        first, last = np.flatnonzero(line)[[0, -1]]
        assert line[first : last + 1].all()
        assert abs(first - (len(line) - 1 - last)) <= 1


@given(target=targets, fit=st.sampled_from(["crop", "pad", "stretch"]))
def test_an_image_of_that_size_keeps_its_pixels(target, fit):
    image = Image.effect_noise(target, 80).convert("RGB")
    assert fit_image(image, *target, fit).tobytes() == image.tobytes()
