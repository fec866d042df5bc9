"""Random nano models on the GPU, held as a server would, and what they make of a request."""

import gc

import torch
from PIL import Image

from bench.instruments import call_times
from bench.random_model import Setup, random_model
from predictors.denoising import denoise
from predictors.memory_estimate import PLACEMENTS
from predictors.pipeline import PipelineSettings
from predictors.request import validate
from predictors.speed import speed_preset
from weights.variants import VARIANTS

OFFLOADING = PLACEMENTS[1:]


def nano(placement="resident", *, name="nano", dtype="float32", int8=False, compiled=False):
    settings = PipelineSettings(memory=placement, int8=int8, compiled=compiled)
    return random_model(VARIANTS[name], Setup(settings=settings, dtype=dtype))


def latents(
    model, *, steps=3, seed=7, prompt="a red circle", speed="quality", on_step=lambda: None
):
    """What denoising gives, on the CPU in float32."""
    size = (model.variant.width, model.variant.height)
    i2v = model.variant.task == "i2v"
    request = validate(
        model.variant,
        prompt=prompt,
        num_inference_steps=steps,
        seed=seed,
        image_size=size if i2v else None,
    )
    image = Image.linear_gradient("L").resize(size).convert("RGB") if i2v else None
    embeddings = model.prompts.encode(request.prompt, "", guidance=True)
    with (
        call_times(model.pipe.transformer, on_step),
        speed_preset(model.pipe, speed, steps),
    ):
        return denoise(model.pipe, request, embeddings, image).float().cpu()


def video(model, denoised):
    """The decoder's output before it is rounded: random weights give less than one byte of it."""
    pipe = model.pipe
    try:
        with torch.no_grad():
            on_gpu = denoised.to(pipe._execution_device, pipe.vae.dtype)
            return pipe.decode_latents(on_gpu).float().cpu()
    finally:
        pipe.maybe_free_model_hooks()


def relative_error(values, expected):
    """The norm of the difference over the norm of what is expected."""
    return float((values - expected).norm() / expected.norm())


def free_gpu():
    gc.collect()
    torch.cuda.empty_cache()
