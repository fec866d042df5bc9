"""Small videos whose frames say by their grey which they are, and datasets of them."""

import json
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from predictors.video import write_video
from training.dataset.clip_rules import ClipRules

RULES = ClipRules(fps=8, frames=9, width=64, height=64, images=False, first_frames=False)

_DARKEST, _STEP = 10, 6


def greys(count, size=(64, 64)):
    """`count` frames, at most 40, each of one grey and each lighter than the one before."""
    width, height = size
    levels = np.arange(count, dtype=np.uint8) * _STEP + _DARKEST
    return np.ones((count, height, width, 3), np.uint8) * levels[:, None, None, None]


def numbers(frames):
    """Which of `greys` each frame is."""
    return [round((frame.mean() - _DARKEST) / _STEP) for frame in np.asarray(frames, float)]


def write_clip(path, count=9, *, fps=8, size=(64, 64), output_format="mp4"):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(greys(count, size), path, fps=fps, output_format=output_format)
    return path


def write_noise(path, count, *, fps=8):
    """Write a video all of whose frames take about as many bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1).integers(0, 256, (count, 64, 64, 3), np.uint8)
    write_video(noise, path, fps=fps, output_format=path.suffix[1:])
    return path


def write_timed(path, frames, ticks, *, time_base=Fraction(1, 1000), stream_settings=None):
    """Write frames without loss, beginning at the given ticks, as `path`'s suffix says."""
    mp4 = path.suffix in (".mp4", ".mov")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264rgb" if mp4 else "ffv1", rate=8)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24" if mp4 else "bgr0"
        stream.codec_context.time_base = time_base
        if mp4:
            stream.codec_context.options = {"qp": "0"}
        if stream_settings:
            stream_settings(stream)
        for image, tick in zip(frames, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path):
    """Write an MP4 that has sound and no picture."""
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_picture(path, size=(64, 64), colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write_label(root, name, caption):
    path = root / "labels" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(caption if isinstance(caption, bytes) else caption.encode())
    return path


def write_metadata(root, *lines):
    """Each line is bytes as they are, or the fields."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "metadata.jsonl"
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    )
    return path


def count_words(text):
    """A tokenizer for tests: a token for each word, and one for the end."""
    return len(text.split()) + 1
