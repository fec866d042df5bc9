"""Sampling equals plain diffusers; progress, cancelling, settings and their traces."""

import dataclasses
import itertools
import json
import re
import tempfile
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cog import CancelationException, Path
from PIL import Image

from predictors.generate import generate, sample
from predictors.lora import adapters
from predictors.lora.lora_layer import LoraLayer
from predictors.lora.source import LoraPlaces
from predictors.memory import cpu_policy
from predictors.operator_settings import OperatorSettings
from predictors.placement import place
from predictors.request import validate
from predictors.stage_log import StageLog
from predictors.video import read_metadata, read_video
from predictors.video_model import load_model
from predictors.weights_source import resolve_weights
from tests.predictors.interrupting import interrupted_at_line
from tests.predictors.lora.lora_files import peft_tensors, random_pairs, write
from weights.caching.holds import hold, hold_path, is_locked
from weights.errors import UserError
from weights.variants import VARIANTS

INPUTS = {"prompt": "a red circle", "num_inference_steps": 3, "seed": 5}
STAGES = {f"timing.{stage}" for stage in ("encode_prompt", "denoise", "decode", "encode")}


@pytest.fixture(autouse=True)
def _outputs_go_to_a_folder_of_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load_model(resolve_weights(str(tiny_folder), "t2v"), OperatorSettings())


@pytest.fixture(scope="module")
def i2v_model(tiny_i2v_folder):
    return load_model(resolve_weights(str(tiny_i2v_folder), "i2v"), OperatorSettings())


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(path)
    return path


def frames_of(model, **inputs):
    """The frames that are encoded, before a codec changes them."""
    seen = []

    def keep(frames, path, **_):
        seen.append(frames)
        path.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("predictors.generate.write_video", keep)
        generate(model, INPUTS | inputs, record_metric=lambda *_: None)
    return seen[0]


def plain(pipeline, folder, scheduler=None, **arguments):
    import diffusers

    pipe = getattr(diffusers, pipeline).from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(
            pipe.scheduler.config, timestep_spacing="trailing"
        )
    asked = {
        "prompt": "a red circle",
        "height": 64,
        "width": 64,
        "num_frames": 9,
        "num_inference_steps": 3,
        "guidance_scale": 6,
        "use_dynamic_cfg": True,
        "max_sequence_length": 16,
        "generator": torch.Generator().manual_seed(5),
        "output_type": "np",
    }
    frames = pipe(**asked | arguments).frames[0]
    return np.rint(frames * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("inputs", "arguments"),
    [
        ({}, {}),
        ({"negative_prompt": "a blue square"}, {"negative_prompt": "a blue square"}),
        ({"guidance_scale": 1}, {"guidance_scale": 1}),
        ({"dynamic_guidance": False}, {"use_dynamic_cfg": False}),
        (
            {"scheduler": "ddim"},
            {"scheduler": "CogVideoXDDIMScheduler", "use_dynamic_cfg": False},
        ),
    ],
    ids=["defaults", "negative prompt", "no guidance", "constant guidance", "ddim"],
)
def test_a_request_gives_what_plain_diffusers_gives(model, tiny_folder, inputs, arguments):
    expected = plain("CogVideoXPipeline", tiny_folder, **arguments)
    assert np.array_equal(frames_of(model, **inputs), expected)


def test_an_image_gives_what_plain_diffusers_gives(i2v_model, tiny_i2v_folder, photo):
    expected = plain("CogVideoXImageToVideoPipeline", tiny_i2v_folder, image=Image.open(photo))
    assert np.array_equal(frames_of(i2v_model, image=Path(photo)), expected)


def test_another_scheduler_is_for_one_request_only(model):
    before = frames_of(model)
    frames_of(model, scheduler="ddim")
    assert np.array_equal(frames_of(model), before)


def test_what_happens_is_printed_and_recorded(model, capsys):
    metrics = {}
    path = generate(model, INPUTS, record_metric=metrics.__setitem__)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "Using seed: 5"
    steps = [line.split(",")[0] for line in lines if line.startswith("step ")]
    assert steps == ["step 1/3", "step 2/3", "step 3/3"]
    assert set(metrics) >= STAGES
    assert (metrics["seed"], metrics["frames"], metrics["steps"]) == (5, 9, 3)
    generate(model, INPUTS, record_metric=metrics.__setitem__)
    assert metrics["prompt_cache_hits"] == 2
    assert re.search(r"^encode_prompt [0-9.]+ s \(cached\)$", capsys.readouterr().out, re.MULTILINE)
    frames, fps = read_video(path)
    assert frames.shape == (9, 64, 64, 3)
    assert fps == 8


@pytest.mark.parametrize("output_format", ["mp4", "webm", "gif"])
def test_the_file_says_how_it_was_made(model, output_format):
    inputs = INPUTS | {"output_format": output_format, "fps": 10}
    path = generate(model, inputs, record_metric=lambda *_: None)
    assert path.suffix == f".{output_format}"
    said = read_metadata(path)
    assert (said["prompt"], said["seed"], said["variant"]) == ("a red circle", "5", "nano")
    assert json.loads(said["settings"])["num_inference_steps"] == 3


def test_an_operator_can_keep_files_and_logs_free_of_prompts(model, capsys):
    private = dataclasses.replace(
        model, settings=OperatorSettings(metadata=False, log_prompts=False)
    )
    path = generate(private, INPUTS | {"prompt": "secret " * 30}, record_metric=lambda *_: None)
    assert read_metadata(path) == {}
    assert "secret" not in capsys.readouterr().out
    assert b"secret" not in path.read_bytes()


def test_the_part_of_a_prompt_that_is_cut_off_is_logged(model, capsys):
    frames_of(model, prompt="ab" * 40, negative_prompt="cd" * 40)
    said = capsys.readouterr().out
    assert "The prompt has more than 16 tokens; the model does not see: 'ab" in said
    assert "The negative_prompt has more than 16 tokens; the model does not see: 'cd" in said


def test_what_is_logged_of_a_prompt_is_one_line(model, capsys):
    """Else a stranger could write lines that look like ours."""
    frames_of(model, prompt="ab" * 40 + "\nUsing seed: 7\r\x1b[2Kstep 1/1\u2028\u202eend")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Using seed")] == ["Using seed: 5"]
    assert all(line.isprintable() for line in lines)


def test_of_a_negative_prompt_that_plays_no_part_nothing_is_said(model, capsys):
    frames_of(model, negative_prompt="cd" * 40, guidance_scale=1)
    assert "does not see" not in capsys.readouterr().out


def test_many_steps_are_reported_in_at_most_fifty_lines_and_the_last(model, capsys):
    frames_of(model, num_inference_steps=101)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) <= 50
    assert lines[-1].startswith("step 101/101")


@pytest.mark.parametrize("speed", ["quality", "fast"])
def test_cancelling_passes_through_and_the_next_run_is_as_before(model, speed):
    before = frames_of(model, num_inference_steps=8, speed=speed)
    calls = []

    def cancel(*_):
        calls.append(1)
        if len(calls) == 4:
            raise CancelationException

    handle = model.pipe.transformer.register_forward_pre_hook(cancel)
    try:
        with pytest.raises(CancelationException):
            frames_of(model, num_inference_steps=8, speed=speed)
    finally:
        handle.remove()
    assert np.array_equal(frames_of(model, num_inference_steps=8, speed=speed), before)


def test_a_lora_that_a_cancelled_request_left_in_is_not_in_the_next(model, tmp_path):
    before = frames_of(model)
    write(tmp_path / "a.safetensors", peft_tensors(random_pairs(VARIANTS["nano"])))
    allowing = OperatorSettings(lora_places=LoraPlaces((tmp_path.resolve(),)))
    with_lora = dataclasses.replace(model, settings=allowing)
    restore, calls = adapters._restore, []

    def cancelled_at_the_end(transformer):
        calls.append(None)
        if len(calls) == 2:
            raise CancelationException
        restore(transformer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters, "_restore", cancelled_at_the_end)
        with pytest.raises(CancelationException):
            frames_of(with_lora, lora=f"{tmp_path}/a.safetensors")
    assert any(isinstance(module, LoraLayer) for module in model.pipe.transformer.modules())
    assert np.array_equal(frames_of(model), before)


def test_parts_that_a_cancelled_request_left_on_the_gpu_are_moved_back_by_the_next(tiny_folder):
    """Else two that were made to take turns there would have to fit at once."""
    model = load_model(resolve_weights(str(tiny_folder), "t2v"), OperatorSettings())
    place(model.pipe, dataclasses.replace(cpu_policy(), placement="model-offload"))
    t5 = model.pipe.text_encoder
    left, found = t5._hf_hook, []

    def cancel(*_):
        raise CancelationException

    handle = t5.register_forward_hook(cancel)
    with pytest.raises(CancelationException):
        frames_of(model)
    handle.remove()
    # Moving parts back makes new hooks.
    t5.register_forward_pre_hook(lambda *_: found.append(t5._hf_hook))
    frames_of(model)
    assert found
    assert left not in found


def test_a_request_cancelled_between_two_lines_does_not_keep_its_lora(model, monkeypatch, tmp_path):
    """It would be held against eviction for as long as the server lives."""
    monkeypatch.setattr("predictors.generate.fetch_lora", lambda *_: hold(tmp_path / "lora"))
    request = validate(model.variant, prompt="a red circle", lora="one")
    applied = []

    @contextmanager
    def apply(*_):
        applied.append(None)
        raise CancelationException
        yield

    model = dataclasses.replace(model, adapters=SimpleNamespace(applied=apply))
    for number in itertools.count():
        assert interrupted_at_line(
            number,
            lambda: sample(model, request, None, StageLog(lambda *_: None)),
            "predictors/generate.py",
        )
        if applied:
            break
        assert not is_locked(hold_path(tmp_path / "lora"))
    assert number > 3


def test_a_bad_request_never_reaches_the_model(model, monkeypatch):
    monkeypatch.setattr(type(model.pipe), "__call__", None)
    with pytest.raises(UserError, match="num_frames is 12"):
        generate(model, INPUTS | {"num_frames": 12}, record_metric=lambda *_: None)
