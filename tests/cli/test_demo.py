"""The demo from end to end: the real conversion, install and Cog server, in a folder of its own."""

import re

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from PIL import Image

from cli.main import main
from predictors.video import read_video, write_video
from training.nano.tracker import is_right, judge, shape_is_clean
from weights.install_check import check_install
from weights.lock import read_lock

WEIGHTS_STAGES = ["inspect", "convert", "pack", "push", "fetch"]
STAGES = [*WEIGHTS_STAGES, "serve", "predict", "look", "draw", "serve", "predict", "look"]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Lets the demo write below a temporary folder instead of this checkout."""
    monkeypatch.setattr("cli.runners.ROOT", tmp_path)
    return tmp_path


def shown_stages(out):
    return re.findall(r"^ *[0-9.]+ s  (\w+)", out, re.MULTILINE)


def test_the_demo_leaves_a_video_and_a_second_run_uses_what_is_there(checkout, capsys):
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert shown_stages(out) == STAGES
    assert len(re.findall(r"^  \.venv/bin/cogvideox ", out, re.MULTILINE)) == 4
    frames, fps = read_video(checkout / "outputs" / "demo.mp4")
    assert frames.shape == (9, 64, 64, 3)
    assert fps == 8
    shown = judge(frames)
    assert is_right(shown, "red", "circle", "left")
    assert shape_is_clean(shown, "circle")
    from_image, _ = read_video(checkout / "outputs" / "demo-i2v.mp4")
    assert is_right(judge(from_image), "yellow", "square", "up")
    image = np.asarray(Image.open(checkout / "outputs" / "demo-image.png"))
    assert np.abs(from_image[0].astype(float) - image).mean() < 3
    for name in ("demo.png", "demo-i2v.png"):
        with Image.open(checkout / "outputs" / name) as sheet:
            assert sheet.size == (5 * 64, 2 * 64)
    lock = read_lock(checkout / "checkpoints" / "demo.lock.json")
    assert lock.url == "s3://demo/nano.tar"
    assert check_install(checkout / "checkpoints" / "installed" / "demo").set_digest == (
        lock.set_digest
    )
    first = (checkout / "outputs" / "demo.mp4").read_bytes()
    times = {
        path: path.stat().st_mtime_ns for path in (checkout / "checkpoints" / "nano").rglob("*")
    }

    assert main(["demo"]) == 0
    assert shown_stages(capsys.readouterr().out) == STAGES
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (checkout / "outputs" / "demo.mp4").read_bytes() == first


def test_the_served_video_is_what_plain_diffusers_makes_of_the_converted_folder(checkout):
    """The same prompt and seed without a line of ours but the encoder: the same frames."""
    assert main(["demo"]) == 0
    folder = checkout / "checkpoints" / "nano"
    pipe = CogVideoXPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        "a red circle moving left",
        width=64,
        height=64,
        num_frames=9,
        num_inference_steps=50,
        guidance_scale=6,
        use_dynamic_cfg=True,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(4),
        output_type="np",
    ).frames[0]
    plain = checkout / "plain.mp4"
    write_video(np.rint(frames * 255).astype(np.uint8), plain, fps=8)
    served, _ = read_video(checkout / "outputs" / "demo.mp4")
    assert np.array_equal(read_video(plain)[0], served)
