"""int8 weights: how much smaller, how close, and with all else that a pipeline must do."""

import diffusers
import numpy as np
import pytest
import torch

from predictors.memory_estimate import component_sizes
from predictors.placement import place
from predictors.quantization import int8_wanted, quantize
from tests.predictors.test_placement import policy, video
from weights.errors import UserError
from weights.variants import VARIANTS

NANO = VARIANTS["nano"]


def loaded(folder):
    pipe = diffusers.CogVideoXPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def quantized(folder):
    pipe = loaded(folder)
    quantize(pipe, "cpu")
    return pipe


@pytest.fixture(scope="module")
def expected(tiny_folder):
    return video(quantized(tiny_folder))


def test_the_video_is_close_to_the_one_of_whole_weights(tiny_folder, expected):
    error = np.mean((video(loaded(tiny_folder)).astype(np.float64) - expected) ** 2)
    assert error > 0
    assert 10 * np.log10(1 / error) > 50


def stored_bytes(module) -> int:
    size = 0
    for tensor in [*module.parameters(), *module.buffers()]:
        parts = ("qdata", "scale", "zero_point") if hasattr(tensor, "qdata") else ()
        size += sum(getattr(tensor, part).nbytes for part in parts) if parts else tensor.nbytes
    return size


def test_weights_shrink_to_the_estimated_size(tiny_folder):
    pipe = quantized(tiny_folder)
    sizes = component_sizes(tiny_folder, NANO, "float32", int8=True)
    assert stored_bytes(pipe.transformer) == sizes.transformer.total
    assert stored_bytes(pipe.text_encoder) == sizes.text_encoder.total
    assert stored_bytes(pipe.vae) == sizes.vae.total
    whole = component_sizes(tiny_folder, NANO, "float32")
    assert 3.5 < whole.transformer.total / sizes.transformer.total < 4


@pytest.mark.parametrize("placement", ["model-offload", "group-offload"])
def test_int8_weights_can_be_offloaded(tiny_folder, expected, placement):
    pipe = quantized(tiny_folder)
    place(pipe, policy(placement))
    assert np.array_equal(video(pipe), expected)


def test_how_float32_is_multiplied_stays_as_it_was(tiny_folder):
    before = torch.get_float32_matmul_precision()
    quantized(tiny_folder)
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without")
def test_a_lora_comes_and_goes(tiny_folder, expected):
    from peft import LoraConfig

    pipe = quantized(tiny_folder)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    pipe.transformer.add_adapter(
        LoraConfig(r=4, target_modules=targets, init_lora_weights=False), "style"
    )
    changed = video(pipe)
    assert np.isfinite(changed).all()
    assert not np.array_equal(changed, expected)
    pipe.transformer.disable_adapters()
    assert np.array_equal(video(pipe), expected)


@pytest.mark.parametrize(("value", "wanted"), [("", False), ("int8", True)])
def test_the_environment_says_so(value, wanted):
    assert int8_wanted({"COGVIDEOX_QUANTIZE": value}) is wanted


def test_without_a_setting_weights_stay_whole():
    assert int8_wanted({}) is False


def test_other_kinds_are_refused():
    with pytest.raises(UserError, match="must be int8, or empty"):
        int8_wanted({"COGVIDEOX_QUANTIZE": "fp8"})


def test_without_torchao_it_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="torchao is not installed"):
        int8_wanted({"COGVIDEOX_QUANTIZE": "int8"})
