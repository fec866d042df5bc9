"""Frames keep their colours in every format; files are whole, reproducible and say their making."""

import os

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from predictors.video import (
    DEFAULT_QUALITY,
    OUTPUT_FORMATS,
    contact_sheet,
    read_metadata,
    read_video,
    write_video,
)

COLOURS = np.array(
    [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)] + [(200, 80, 30)], np.uint8
)
every_format = pytest.mark.parametrize("output_format", OUTPUT_FORMATS)


@pytest.fixture
def frames():
    """(9, 48, 64, 3) uint8: each frame one grey, brighter from frame to frame."""
    levels = np.linspace(20, 220, 9).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (9, 48, 64, 3)).copy()


@pytest.fixture
def textured():
    """(9, 48, 64, 3) uint8: smooth shapes that move, with a little noise."""
    time, y, x = np.mgrid[:9, :48, :64]
    waves = [np.sin(x / a + y / b + time / 3) for a, b in ((9, 20), (30, 7), (15, 15))]
    noise = np.random.default_rng(0).normal(0, 4, (9, 48, 64, 1))
    return np.clip(128 + 90 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def psnr(frames, others):
    return 10 * np.log10(255**2 / np.mean((frames.astype(float) - others) ** 2))


@every_format
@pytest.mark.parametrize("fps", [8, 16, 60])
def test_the_file_holds_the_frames(frames, tmp_path, output_format, fps):
    path = tmp_path / "video"
    fps = min(fps, 50) if output_format == "gif" else fps
    write_video(frames, path, fps=fps, output_format=output_format)
    decoded, decoded_fps = read_video(path)
    assert decoded.shape == frames.shape
    assert decoded_fps == pytest.approx(fps, rel=0.03 if output_format == "gif" else 0)
    assert np.abs(decoded.astype(int) - frames).max() <= 4


@every_format
def test_frames_without_motion_are_all_kept(frames, tmp_path, output_format):
    still = np.broadcast_to(frames[3], frames.shape)
    write_video(still, tmp_path / "v", fps=8, output_format=output_format)
    assert read_video(tmp_path / "v")[0].shape == frames.shape


@pytest.mark.parametrize(
    ("output_format", "codec", "profile"), [("mp4", "h264", "High"), ("webm", "vp9", "Profile 0")]
)
@pytest.mark.parametrize("quality", [1, 100])
def test_browsers_play_it(frames, tmp_path, output_format, codec, profile, quality):
    write_video(frames, tmp_path / "v", fps=8, output_format=output_format, quality=quality)
    with av.open(tmp_path / "v") as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.profile) == (codec, "yuv420p", profile)


def test_an_mp4_plays_while_it_loads(frames, tmp_path):
    write_video(frames, tmp_path / "v", fps=8)
    data = (tmp_path / "v").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def shown_by_a_player(path):
    """Frames by the tags of the file: limited range, and BT.709's matrix written out here."""
    pictures = []
    with av.open(path) as container:
        context = container.streams.video[0].codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        assert tags == (1, 1, 1, 1)
        for frame in container.decode(video=0):
            planes = frame.to_ndarray().astype(float)
            height = frame.height
            y = (planes[:height] - 16) / 219
            u, v = (
                plane.reshape(height // 2, -1).repeat(2, 0).repeat(2, 1)
                for plane in (planes[height:].reshape(2, -1) - 128) / 224
            )
            red, blue = y + 1.5748 * v, y + 1.8556 * u
            green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
            pictures.append(np.stack([red, green, blue], -1) * 255)
    return np.clip(np.rint(np.stack(pictures)), 0, 255)


@pytest.mark.parametrize("output_format", ["mp4", "webm"])
def test_a_player_shows_the_colours_that_went_in(tmp_path, output_format):
    frames = np.broadcast_to(COLOURS[:, None, None], (9, 48, 64, 3)).copy()
    write_video(frames, tmp_path / "v", fps=8, output_format=output_format, quality=100)
    assert np.abs(shown_by_a_player(tmp_path / "v") - frames).max() <= 3
    assert psnr(frames, shown_by_a_player(tmp_path / "v")) > 45
    assert psnr(frames, read_video(tmp_path / "v")[0]) > 45


@every_format
def test_more_quality_is_nearer_to_the_frames(textured, tmp_path, output_format):
    sizes, nearness = [], []
    for quality in (1, 30, 80, 100):
        path = tmp_path / str(quality)
        write_video(textured, path, fps=8, output_format=output_format, quality=quality)
        sizes.append(path.stat().st_size)
        nearness.append(psnr(textured, read_video(path)[0]))
    assert sizes == sorted(sizes)
    assert nearness[:3] == sorted(nearness[:3])
    assert nearness[-1] >= nearness[-2]
    assert nearness[2] > nearness[0] + 5


def test_the_default_quality_is_x264s_crf_18(frames, tmp_path):
    assert DEFAULT_QUALITY == 80
    write_video(frames, tmp_path / "v", fps=8)
    # x264 writes its settings into the stream.
    assert b" crf=18.0 " in (tmp_path / "v").read_bytes()


@every_format
def test_the_same_frames_give_the_same_bytes(textured, tmp_path, output_format):
    for name in "ab":
        write_video(
            textured, tmp_path / name, fps=8, output_format=output_format, metadata={"seed": "1"}
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def encoded_on(cores, path, frames, **options):
    """The bytes of a video, and of what the process may use, the first `cores` only."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        write_video(frames, path, fps=8, **options)
    finally:
        os.sched_setaffinity(0, allowed)
    return path.read_bytes()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_one_thread_gives_the_same_bytes_on_any_number_of_cores(textured, tmp_path):
    large = np.tile(textured, (1, 10, 11, 1))
    path = tmp_path / "a.mp4"
    one, two = (encoded_on(cores, path, large, one_thread=True) for cores in (1, 2))
    assert one == two
    # Or there would be nothing to be seen here.
    one, two = (encoded_on(cores, path, large) for cores in (1, 2))
    assert one != two


@every_format
@settings(max_examples=30, deadline=None)
@given(text=st.text())
@example(text='ünïcode "quoted" \\ 画 \0 \ud800 = ; # \n' * 40)
def test_metadata_come_back(tmp_path_factory, output_format, text):
    path = tmp_path_factory.getbasetemp() / f"metadata.{output_format}"
    metadata = {"prompt": text, "seed": "5", "settings": '{"steps": 50}'}
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    write_video(frames, path, fps=8, output_format=output_format, metadata=metadata)
    assert read_metadata(path) == metadata


@every_format
def test_other_programs_find_the_metadata_in_the_comment(frames, tmp_path, output_format):
    path = tmp_path / "v"
    write_video(frames, path, fps=8, output_format=output_format, metadata={"prompt": "a cat"})
    with av.open(path) as container:
        tags = {name.lower(): text for name, text in container.metadata.items()}
    assert tags["comment"] == '{"prompt": "a cat"}'
    if output_format == "gif":
        with Image.open(path) as image:
            assert image.info["comment"] == b'{"prompt": "a cat"}'
            assert image.info["loop"] == 0


@every_format
def test_without_metadata_the_file_says_nothing(frames, tmp_path, output_format):
    write_video(frames, tmp_path / "v", fps=8, output_format=output_format)
    with av.open(tmp_path / "v") as container:
        assert "comment" not in {name.lower() for name in container.metadata}
    assert read_metadata(tmp_path / "v") == {}


@pytest.mark.parametrize("comment", ["by hand", "[1]", '"text"'])
def test_comments_of_others_are_not_taken_for_metadata(frames, tmp_path, comment):
    with av.open(tmp_path / "v.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height = 64, 48
        container.metadata["comment"] = comment
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[0], format="rgb24")))
        container.mux(stream.encode())
    assert read_metadata(tmp_path / "v.mp4") == {}


class Stop(BaseException):
    """What Cog's cancelling looks like from inside."""


class Interrupted(np.ndarray):
    def __iter__(self):
        yield from list(super().__iter__())[:3]
        raise Stop


@every_format
def test_a_cancelled_encoding_leaves_nothing(frames, tmp_path, output_format):
    path = tmp_path / "v"
    with pytest.raises(Stop):
        write_video(frames.view(Interrupted), path, fps=8, output_format=output_format)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"the one before")
    with pytest.raises(Stop):
        write_video(frames.view(Interrupted), path, fps=8, output_format=output_format)
    assert path.read_bytes() == b"the one before"


@every_format
def test_the_contact_sheet_shows_every_frame_in_order(frames, tmp_path, output_format):
    write_video(frames, tmp_path / "v", fps=8, output_format=output_format)
    contact_sheet(tmp_path / "v", tmp_path / "sheet.png", columns=4)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (3 * 48, 4 * 64, 3)
    shown = sheet.reshape(3, 48, 4, 64, 3)[:, 24, :, 32, 0].reshape(-1)
    assert np.abs(shown[:9].astype(int) - frames[:, 0, 0, 0]).max() <= 4
    assert (shown[9:] == 0).all()
