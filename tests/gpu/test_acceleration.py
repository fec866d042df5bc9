"""Compiled blocks, int8 weights and reused steps on a GPU."""

import pytest
import torch

from bench.cases.adapters import write_random_lora
from tests.gpu.nano_on_gpu import latents, nano, relative_error
from weights.variants import VARIANTS


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("placement", ["resident", "model-offload", "group-offload"])
def test_compiled_blocks_give_the_same_but_for_rounding(placement):
    expected = latents(nano(dtype="bfloat16"))
    model = nano(placement, dtype="bfloat16", compiled=True)
    assert relative_error(latents(model), expected) < 0.06
    assert torch.equal(latents(model), latents(model))


def test_a_lora_and_a_preset_work_on_compiled_blocks(tmp_path):
    path = tmp_path / "random.safetensors"
    write_random_lora(VARIANTS["nano"], path, rank=16)
    eager, compiled = nano(), nano(compiled=True)
    bare = latents(compiled, steps=14)
    for speed in ("quality", "fast"):
        with eager.adapters.applied(path, 1.0):
            expected = latents(eager, steps=14, speed=speed)
        with compiled.adapters.applied(path, 1.0):
            assert relative_error(latents(compiled, steps=14, speed=speed), expected) < 1e-3, speed
    assert torch.equal(latents(compiled, steps=14), bare)


@pytest.mark.parametrize("placement", ["resident", "model-offload", "group-offload"])
def test_int8_weights_stay_close(placement):
    pytest.importorskip("torchao")
    expected = latents(nano(dtype="bfloat16"))
    model = nano(placement, dtype="bfloat16", int8=True)
    result = latents(model)
    assert 0 < relative_error(result, expected) < 0.1
    assert torch.equal(latents(model), result)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reused_steps_leave_no_trace(dtype):
    model = nano(dtype=dtype)
    whole = latents(model, steps=14)
    fast = latents(model, steps=14, speed="fast")
    assert 0 < relative_error(fast, whole) < 0.5
    assert torch.equal(latents(model, steps=14), whole)
    assert torch.equal(latents(model, steps=14, speed="fast"), fast)
