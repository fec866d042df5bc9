"""Clips come as training wants them, from any container, at any rate, however they lie."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tests.training.dataset.small_datasets import (
    RULES,
    greys,
    numbers,
    write_clip,
    write_noise,
    write_picture,
    write_timed,
)
from training.dataset.clip import Clip
from training.dataset.clip_frames import read_clip, read_frames, read_image
from training.dataset.clip_rules import ClipRules
from weights.errors import UserError


def clip_of(path, frames=RULES.frames, image=None):
    return Clip(path=path, prompt="a clip", image=image, frames=frames)


def rules(**changes):
    fields = {"fps": 8, "frames": 9, "width": 64, "height": 64}
    return ClipRules(images=True, first_frames=True, **fields | changes)


@pytest.mark.parametrize(
    ("name", "output_format"),
    [("a.mp4", "mp4"), ("A.MOV", "mp4"), ("a.webm", "webm"), ("a.gif", "gif")],
)
@pytest.mark.parametrize("fps", [8, 16])
def test_each_kind_of_file_gives_its_frames(name, output_format, fps, tmp_path):
    path = write_clip(tmp_path / name, 20, fps=fps, output_format=output_format)
    frames = read_clip(clip_of(path), RULES)
    assert frames.shape == (9, 64, 64, 3)
    assert frames.dtype == np.uint8
    assert numbers(frames) == list(range(0, 9 * fps // 8, fps // 8))


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.m4v"])
def test_videos_are_resampled_and_cut(name, tmp_path):
    path = tmp_path / name
    with av.open(path, "w", format="mp4" if name == "a.m4v" else None) as container:
        stream = container.add_stream("mpeg4", rate=16)
        stream.width = stream.height = 64
        for image in greys(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    assert numbers(read_clip(clip_of(path), RULES)) == list(range(0, 18, 2))


def test_short_videos_are_filled_up_with_their_last_frame(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 6)
    assert numbers(read_clip(clip_of(path), RULES)) == [0, 1, 2, 3, 4, 5, 5, 5, 5]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_frames_are_taken_by_their_times_and_not_by_their_number(name, tmp_path):
    ticks = [500, 533, 566, 600, 633, 900, 1000, 1250, 1260, 1600]
    path = write_timed(tmp_path / name, greys(10), ticks)
    # 0, 125, 250 … ms after the first.
    assert numbers(read_clip(clip_of(path), RULES)) == [0, 3, 4, 4, 6, 6, 7, 8, 8]


def test_the_image_is_the_first_frame_or_the_clips_own(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    first = read_image(clip_of(path), RULES)
    np.testing.assert_array_equal(first, read_clip(clip_of(path), RULES)[0])
    own = write_picture(tmp_path / "a.png", (130, 65))
    image = read_image(clip_of(path, image=own), RULES)
    assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
    assert (image == (255, 0, 0)).all()


def test_of_a_damaged_clip_the_first_frame_can_be_read(tmp_path):
    path = write_noise(tmp_path / "a.mp4", 20)
    path.write_bytes(path.read_bytes()[:-20_000])
    clip = clip_of(path, frames=17)
    assert read_image(clip, RULES).std() > 10
    with pytest.raises(UserError, match=r"a\.mp4 can't be used: It ends after"):
        read_clip(clip, RULES)


def test_images_are_clips_of_one_frame(tmp_path):
    path = write_picture(tmp_path / "a.PNG", (100, 80))
    frames = read_clip(clip_of(path, frames=1), rules())
    assert frames.shape == (1, 64, 64, 3)
    assert (frames == (255, 0, 0)).all()
    np.testing.assert_array_equal(read_image(clip_of(path, frames=1), rules()), frames[0])


def test_some_frames_are_those_of_the_whole_clip(tmp_path):
    clip = clip_of(write_clip(tmp_path / "a.mp4", 7))
    whole = read_clip(clip, RULES)
    np.testing.assert_array_equal(read_frames(clip, RULES, (0, 4, 8)), whole[[0, 4, 8]])


def corners(size=(96, 64)):
    """A picture with another colour in each corner: red, green above, blue, white below."""
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (255, 0, 0)
    image[: height // 2, width // 2 :] = (0, 255, 0)
    image[height // 2 :, : width // 2] = (0, 0, 255)
    image[height // 2 :, width // 2 :] = (255, 255, 255)
    return image


# What a viewer sees of `corners` for each display matrix: turned anticlockwise, then mirrored.
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_videos_are_turned_as_their_display_matrix_says(degrees, mirrored, tmp_path):
    path = write_timed(
        tmp_path / "a.mov",
        np.stack([corners()] * 9),
        [125 * number for number in range(9)],
        stream_settings=lambda stream: stream.set_display_rotation(degrees, mirrored, False),
    )
    shown = np.rot90(corners(), degrees // 90)
    shown = shown[:, ::-1] if mirrored else shown
    height, width, _ = shown.shape
    frames = read_clip(clip_of(path), rules(width=width, height=height))
    np.testing.assert_array_equal(frames[0], shown)
    np.testing.assert_array_equal(frames[8], shown)


def test_a_frame_whose_side_data_has_no_name_is_turned_too(tmp_path):
    from training.dataset.upright import turn_of

    class Stereo:
        rotation = 90

        @property
        def side_data(self):
            raise ValueError("34 is not a valid Type")

    assert turn_of(Stereo()) == Image.Transpose.ROTATE_90


def test_images_are_turned_as_their_exif_says(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "a.jpg"
    Image.fromarray(corners()).save(path, exif=exif, quality=95, subsampling=0)
    frame = read_clip(clip_of(path, frames=1), rules(width=64, height=96))[0]
    shown = np.rot90(corners(), -1)
    assert abs(frame.astype(int) - shown)[8:-8, 8:-8].mean() < 5


def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(tmp_path):
    def anamorphic(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    frames = np.stack([corners((64, 64))] * 9)
    ticks = [125 * number for number in range(9)]
    path = write_timed(tmp_path / "a.mp4", frames, ticks, stream_settings=anamorphic)
    wide = read_clip(clip_of(path), rules(width=128, height=64))
    # Nothing is cut off above, as it would be were the picture square.
    assert (wide[0, :28, :56] == (255, 0, 0)).all()
    assert (wide[0, 36:, 72:] == 255).all()


@pytest.mark.parametrize("size", [(128, 64), (64, 128)])
def test_what_is_cut_off_is_as_much_on_each_side(size, tmp_path):
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[(height - 64) // 2 : (height + 64) // 2, (width - 64) // 2 : (width + 64) // 2] = 255
    path = write_timed(tmp_path / "a.mkv", image[None], [0])
    frames = read_clip(clip_of(path), RULES)
    assert (frames[:, 8:-8, 8:-8] == 255).all()


def test_a_file_that_changed_since_is_named(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    clip = clip_of(path, image=tmp_path / "gone.png")
    path.write_text("no video any more")
    with pytest.raises(UserError, match=r"a\.mp4 can't be used: It can't be read .*Copy it again"):
        read_clip(clip, RULES)
    with pytest.raises(UserError, match=r"gone\.png can't be used: .*No such file"):
        read_image(clip, RULES)
