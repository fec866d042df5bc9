"""LoRAs put into a model on a GPU, however it is held, and taken out."""

import pytest
import torch

from bench.cases.adapters import write_random_lora
from predictors.memory_estimate import PLACEMENTS
from tests.gpu.nano_on_gpu import latents, nano, relative_error
from weights.variants import VARIANTS


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    path = tmp_path_factory.mktemp("lora") / "random.safetensors"
    write_random_lora(VARIANTS["nano"], path, rank=16)
    return path


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_it_every_bit_is_as_before(lora, placement, dtype):
    model = nano(placement, dtype=dtype)
    before = latents(model)
    with model.adapters.applied(lora, 1.0):
        first = latents(model)
    with model.adapters.applied(lora, 1.0):
        again = latents(model)
    assert relative_error(first, before) > 1e-3
    assert torch.equal(first, again)
    assert torch.equal(latents(model), before)


def test_it_acts_the_same_however_the_model_is_held(lora):
    results = {}
    for placement in PLACEMENTS:
        model = nano(placement)
        with model.adapters.applied(lora, 1.0):
            results[placement] = latents(model)
    for placement, result in results.items():
        assert relative_error(result, results["resident"]) < 1e-5, placement
