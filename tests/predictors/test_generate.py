"""Sampling equals plain diffusers; progress, cancelling and broken output are handled."""

import tempfile

import numpy as np
import pytest
import torch
from cog import CancelationException

from predictors.generate import generate, sample, to_uint8
from predictors.pipeline import LoadedPipeline, load_pipeline
from predictors.request import validate
from predictors.weights_source import resolve_weights
from weights.errors import OperationError
from weights.variants import VARIANTS

NANO = VARIANTS["nano"]
INPUTS = {
    "prompt": "a red circle",
    "num_inference_steps": 3,
    "guidance_scale": 6,
    "num_frames": None,
    "seed": 5,
}


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return load_pipeline(resolve_weights(str(tiny_folder), "t2v"))


class StubPipe:
    """Behaves like a pipeline as far as `sample` sees it, without computing anything."""

    scheduler = None

    def __init__(self, on_step=None, value=0.5):
        self.on_step, self.value, self.freed = on_step, value, 0

    def __call__(self, *, num_inference_steps, callback_on_step_end, num_frames, **arguments):
        for index in range(num_inference_steps):
            if self.on_step:
                self.on_step(index)
            assert callback_on_step_end(self, index, None, {}) == {}
        video = np.full((1, num_frames, 4, 4, 3), self.value, np.float32)
        return type("Output", (), {"frames": video})

    def maybe_free_model_hooks(self):
        self.freed += 1


def test_a_seed_gives_what_plain_diffusers_gives(loaded, tiny_folder):
    from diffusers import CogVideoXPipeline

    frames = sample(loaded, validate(NANO, **INPUTS))
    plain = CogVideoXPipeline.from_pretrained(tiny_folder, dtype=torch.float32)
    plain.set_progress_bar_config(disable=True)
    expected = plain(
        prompt="a red circle",
        height=64,
        width=64,
        num_frames=9,
        num_inference_steps=3,
        guidance_scale=6,
        use_dynamic_cfg=True,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).frames[0]
    assert frames.shape == (9, 64, 64, 3)
    assert np.array_equal(frames, np.rint(expected * 255).astype(np.uint8))


def test_the_seed_and_each_step_are_printed_and_timings_recorded(
    loaded, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    metrics = {}
    path = generate(loaded, **INPUTS, record_metric=metrics.__setitem__)
    assert path.is_relative_to(tmp_path)
    first, *steps = capsys.readouterr().out.splitlines()
    assert first == "Using seed: 5"
    assert [line.split(",")[0] for line in steps] == ["step 1/3", "step 2/3", "step 3/3"]
    assert set(metrics) == {"timing.sample", "timing.encode"}


def test_many_steps_are_reported_in_at_most_fifty_lines_and_the_last(capsys):
    request = validate(NANO, **INPUTS | {"num_inference_steps": 499})
    sample(LoadedPipeline(StubPipe(), NANO), request)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 50
    assert lines[-1].startswith("step 499/499")


def test_cancelling_passes_through_and_cleans_up(capsys):
    def cancel(index):
        if index == 2:
            raise CancelationException

    pipe = StubPipe(cancel)
    request = validate(NANO, **INPUTS | {"num_inference_steps": 9})
    with pytest.raises(CancelationException):
        sample(LoadedPipeline(pipe, NANO), request)
    assert pipe.freed == 1
    assert "step 3/9" not in capsys.readouterr().out


def test_values_become_bytes_by_rounding():
    video = np.array([0, 0.001, 0.5, 1], np.float32).reshape(1, 1, 4, 1)
    assert to_uint8(video).ravel().tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_output_that_is_not_finite_is_refused(value):
    loaded = LoadedPipeline(StubPipe(value=value), NANO)
    with pytest.raises(OperationError, match=r"not finite in frame 0.*another dtype"):
        sample(loaded, validate(NANO, **INPUTS))
