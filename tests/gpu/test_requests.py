"""Seeds, cancelling and kept prompts on a GPU."""

import pytest
import torch

from bench.random_pipeline import random_pipeline
from predictors.denoising import denoise
from predictors.memory_estimate import PLACEMENTS
from predictors.prompt_embeddings import PromptEmbeddings
from predictors.request import validate
from tests.gpu.nano_on_gpu import latents, nano, relative_error
from weights.variants import VARIANTS

NANO = VARIANTS["nano"]


class Cancelled(BaseException):
    """As Cog's own, no Exception."""


def denoised_on(device):
    pipe = random_pipeline(NANO, device=device, dtype="float32")
    request = validate(NANO, prompt="a red circle", num_inference_steps=3, seed=7)
    prompts = PromptEmbeddings(pipe, NANO.text_tokens)
    embeddings = prompts.encode(request.prompt, "", guidance=True)
    return denoise(pipe, request, embeddings, None).cpu()


def test_a_seed_is_the_same_video_as_on_a_cpu():
    # The noise is drawn on the CPU wherever the model runs. TF32 would round to ten bits.
    with torch.backends.cudnn.flags(allow_tf32=False):
        on_gpu = denoised_on("cuda")
    assert relative_error(on_gpu, denoised_on("cpu")) < 5e-3


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("speed", ["quality", "fast"])
def test_a_cancelled_request_leaves_no_trace(placement, speed):
    model = nano(placement)
    expected = latents(model, steps=14, speed=speed)
    assert relative_error(latents(model, steps=14, speed=speed, seed=8), expected) > 0.1
    calls = []

    def cancel():
        calls.append(1)
        if len(calls) == 9:
            raise Cancelled

    with pytest.raises(Cancelled):
        latents(model, steps=14, speed=speed, on_step=cancel)
    assert torch.equal(latents(model, steps=14, speed=speed), expected)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_kept_prompt_neither_runs_nor_moves_the_text_encoder(placement):
    model = nano(placement)
    expected = latents(model)
    text_encoder = model.pipe.text_encoder
    runs, devices = [], set()
    text_encoder.register_forward_pre_hook(lambda *_: runs.append(1))
    homes = {parameter.device.type for parameter in text_encoder.parameters()}

    def look():
        devices.update(parameter.device.type for parameter in text_encoder.parameters())

    assert torch.equal(latents(model, on_step=look), expected)
    assert not runs
    assert devices == homes
    latents(model, prompt="a blue square")
    assert runs
