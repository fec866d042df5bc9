"""Files that are no whole video say so before training, and make FFmpeg open nothing else."""

import re
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests.training.dataset.small_datasets import (
    greys,
    numbers,
    write_clip,
    write_noise,
    write_sound,
    write_timed,
)
from training.dataset import video_frames
from training.dataset.clip import UnusableClipError
from training.dataset.video_frames import opened_video, timed_frames


def read_all(path):
    with opened_video(path) as (container, stream):
        return [
            (float(frame.start), frame.picture.to_ndarray(format="rgb24"))
            for frame in timed_frames(container, stream, path)
        ]


def refused(path):
    with pytest.raises(UnusableClipError) as caught:
        read_all(path)
    assert caught.value.remedy.endswith(".")
    return caught.value.found


@pytest.mark.parametrize("output_format", ["mp4", "webm", "gif"])
def test_frames_come_with_their_times(output_format, tmp_path):
    path = write_clip(tmp_path / f"a.{output_format}", 10, fps=16, output_format=output_format)
    times, frames = zip(*read_all(path), strict=True)
    assert times == pytest.approx([number / 16 for number in range(10)], abs=0.0051)
    assert numbers(frames) == list(range(10))


def stamped(*stamps, base=Fraction(1, 1000)):
    """What `timed_frames` makes of frames of which the file says these (pts, duration)."""
    frames = [
        SimpleNamespace(
            **{"pts": pts, "duration": duration, "time_base": base},
            **{"time": None, "is_corrupt": False, "width": 64, "height": 64},
        )
        for pts, duration in stamps
    ]
    stream = SimpleNamespace(
        codec_context=SimpleNamespace(width=64, height=64),
        **{"average_rate": Fraction(8), "duration": None, "metadata": {}, "time_base": base},
    )
    container = SimpleNamespace(
        decode=lambda _: frames, format=SimpleNamespace(name="mov"), duration=None, streams=[stream]
    )
    timed = timed_frames(container, stream, Path("a.mp4"))
    return [(1000 * frame.start, 1000 * frame.duration) for frame in timed]


def test_a_last_frame_lasts_as_long_as_others_where_the_file_says_nothing_of_it():
    assert stamped((0, 125), (125, 0)) == [(0, 125), (125, 125)]
    assert stamped((0, 125), (125, 1)) == [(0, 125), (125, 125)]
    assert stamped((0, 125), (125, 900)) == [(0, 125), (125, 900)]


def test_times_begin_at_the_first_frame_and_never_fall():
    assert stamped((-50, 125), (75, 125)) == [(0, 125), (125, 125)]
    assert stamped((1000, 125), (1300, 125), (1100, 125)) == [(0, 125), (300, 125), (300, 125)]


def test_a_frame_without_a_time_begins_where_the_one_before_it_ended():
    assert stamped((None, 200), (None, 125)) == [(0, 200), (200, 125)]


@pytest.mark.parametrize(
    "data",
    [
        b"this is a text\n" * 100,
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\3\4" + bytes(100),
        b"\0\0\0\x18ftypmp42" + bytes(12),
        bytes(1000),
    ],
)
def test_other_files_by_a_videos_name(data, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    assert refused(path).startswith("It can't be read (")


def test_files_that_are_no_files(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    assert refused(tmp_path / "empty.mp4") == "It is empty."
    assert refused(tmp_path / "folder.mp4") == "It is a folder."
    assert refused(tmp_path / "missing.mp4") == "It is not a file."


@pytest.mark.parametrize("form", ["ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXTINF:1,\n{}\n"])
def test_lists_of_other_files_open_none_of_them(form, tmp_path):
    write_clip(tmp_path / "secret.mp4")
    path = tmp_path / "a.mp4"
    path.write_text(form.format("secret.mp4"))
    assert refused(path).startswith("It can't be read (")


def test_a_name_like_a_protocol_is_a_name(tmp_path, monkeypatch):
    write_clip(tmp_path / "data:" / "a.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read_all(Path("data:/a.mp4"))) == 9


def test_a_name_that_is_not_utf_8_is_a_name(tmp_path):
    path = tmp_path / b"caf\xe9.mp4".decode(errors="surrogateescape")
    assert len(read_all(write_clip(tmp_path / "a.mp4").rename(path))) == 9


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(video_frames.av, "open", refuse)
    assert refused(path) == "It can't be read (Permission denied)."


def test_sound_alone(tmp_path):
    path = write_sound(tmp_path / "a.mp4")
    assert refused(path) == "It has no video that can be decoded."


def test_a_songs_cover_is_no_video(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(greys(1)[0], format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert refused(path) == "It has no video that can be decoded."


def test_a_video_without_frames(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        container.start_encoding()
    assert refused(path) in ("It has no frames.", "It has no video that can be decoded.")


def write_avi(path, frames):
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("share", [0.05, 0.5, 0.8])
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.mkv", "a.avi", "b.mov"])
def test_files_that_were_cut_off(name, share, tmp_path):
    path = tmp_path / name
    if name in ("a.mkv", "b.mov"):
        write_timed(path, greys(40), [125 * number for number in range(40)])
    elif name == "a.avi":
        write_avi(path, greys(40))
    elif name == "a.gif":
        write_clip(path, 40, output_format="gif")
    else:
        write_noise(path, 40)
    assert len(read_all(path)) == 40
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path)


@pytest.fixture
def avi_chunks(tmp_path):
    """An AVI of 40 frames, and where in it the chunk of each frame begins."""
    path = tmp_path / "a.avi"
    write_avi(path, np.random.default_rng(1).integers(0, 256, (40, 64, 64, 3), np.uint8))
    data = path.read_bytes()
    movie, index = data.index(b"movi"), data.index(b"idx1")
    starts = [movie + match.start() for match in re.finditer(b"00dc", data[movie:index])]
    assert len(starts) == 40
    return path, starts


def test_an_avi_that_was_cut_off_between_two_frames(avi_chunks):
    path, starts = avi_chunks
    path.write_bytes(path.read_bytes()[: starts[20]])
    assert refused(path) == "It ends after 2.50 s and says that it lasts 5.00 s."


def test_half_of_a_frame(avi_chunks):
    path, starts = avi_chunks
    path.write_bytes(path.read_bytes()[: (starts[38] + starts[39]) // 2])
    assert refused(path) == "It is damaged after 4.62 s (a frame with errors)."


def test_bytes_that_changed(tmp_path):
    path = write_noise(tmp_path / "a.mp4", 40)
    data = bytearray(path.read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    assert refused(path).startswith("It is damaged after 2.")


def test_what_comes_after_the_frames_that_are_wanted_does_not_matter(tmp_path):
    path = write_noise(tmp_path / "a.mp4", 40)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    with opened_video(path) as (container, stream):
        times = [frame.start for frame in islice(timed_frames(container, stream, path), 20)]
    assert times == [Fraction(number, 8) for number in range(20)]
    assert refused(path).startswith("It ends after 3.")


def test_frames_that_are_too_large(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4")
    monkeypatch.setattr(video_frames, "MAX_PIXELS", 64 * 64 - 1)
    assert refused(path).startswith("Its frames have 64×64 pixels")
    monkeypatch.setattr(video_frames, "MAX_PIXELS", 64 * 64)
    assert len(read_all(path)) == 9
