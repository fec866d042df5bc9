"""Frames survive the MP4, browsers can play it, and the contact sheet shows every frame."""

import av
import numpy as np
import pytest
from PIL import Image

from predictors.video import contact_sheet, read_video, write_mp4


@pytest.fixture
def frames():
    """(9, 48, 64, 3) uint8: each frame one colour, brighter from frame to frame."""
    levels = np.linspace(20, 220, 9).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (9, 48, 64, 3)).copy()


def test_the_mp4_holds_the_frames(frames, tmp_path):
    write_mp4(frames, tmp_path / "v.mp4", fps=8)
    decoded, fps = read_video(tmp_path / "v.mp4")
    assert decoded.shape == frames.shape
    assert fps == 8
    assert np.abs(decoded.astype(int) - frames).max() <= 4


def test_the_mp4_plays_in_browsers_and_while_it_loads(frames, tmp_path):
    path = tmp_path / "v.mp4"
    write_mp4(frames, path, fps=16)
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_same_frames_give_the_same_bytes(frames, tmp_path):
    write_mp4(frames, tmp_path / "a.mp4", fps=8)
    write_mp4(frames, tmp_path / "b.mp4", fps=8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_contact_sheet_shows_every_frame_in_order(frames, tmp_path):
    write_mp4(frames, tmp_path / "v.mp4", fps=8)
    contact_sheet(tmp_path / "v.mp4", tmp_path / "sheet.png", columns=4)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (3 * 48, 4 * 64, 3)
    shown = sheet.reshape(3, 48, 4, 64, 3)[:, 24, :, 32, 0].reshape(-1)
    assert np.abs(shown[:9].astype(int) - frames[:, 0, 0, 0]).max() <= 4
    assert (shown[9:] == 0).all()
