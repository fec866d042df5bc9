"""The denoising loop of diffusers' pipelines, from text embeddings and an image to latents."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from predictors.prompt_embeddings import Embeddings
from predictors.request import Request, Scheduler

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

# As diffusers calls it: the pipeline, the step's index, its timestep and tensors.
OnStep = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]

_MAX_PROGRESS_LINES = 50
_SCHEDULER_CLASSES: dict[Scheduler, str] = {
    "dpm": "CogVideoXDPMScheduler",
    "ddim": "CogVideoXDDIMScheduler",
}


def denoise(
    pipe: Any, request: Request, embeddings: Embeddings, image: "Image | None"
) -> "torch.Tensor":
    """The latents of `request`, (1, latent frames, 16, height / 8, width / 8), not decoded yet.

    Prints the progress. Versions 1.5 of the model return padding frames at the start too.

    Args:
        image: the first frame, of the request's size; None for text-to-video.
    """
    with scheduler_of(pipe, request.scheduler):
        return denoise_batch(
            pipe,
            request,
            (embeddings.prompt_embeds, embeddings.negative_prompt_embeds),
            [image] if image else [],
            [request.seed],
            on_step=_progress(request.num_inference_steps),
        )


def denoise_batch(
    pipe: Any,
    request: Request,
    embeddings: "tuple[torch.Tensor, torch.Tensor | None]",
    images: "Sequence[Image]",
    seeds: Sequence[int],
    *,
    on_step: OnStep | None = None,
) -> "torch.Tensor":
    """The latents of several videos of one shape, (videos, latent frames, 16, height / 8, width /
    8), by the scheduler that `pipe` has. Each has the noise that its seed alone would give it.

    Args:
        request: for all but prompts, seeds and images.
        embeddings: of the prompts, [videos, text_tokens, text_embed_dim], and of the negative ones,
            None without guidance; on the device that the pipeline runs on.
        images: the first frames, of the request's size; none for text-to-video.
        seeds: one for each video.
    """
    import torch

    prompt_embeds, negative_prompt_embeds = embeddings
    # Drawn on the CPU, the noise of a seed is the same on every machine.
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    try:
        output = pipe(
            **({"image": list(images)} if images else {}),
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            height=request.height,
            width=request.width,
            num_frames=request.num_frames,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            # As in SAT, a cosine of the timestep, 999 and down, and not of the step's number: it
            # does not grow, but jumps about between 1 and the scale + 1.
            use_dynamic_cfg=request.dynamic_guidance,
            generator=generators,
            output_type="latent",
            callback_on_step_end=on_step,
        )
    finally:
        # A cancelled run leaves hooks behind that would spoil the next one. Cancelling is an
        # exception that Cog raises between two bytecodes: it must pass through here.
        pipe.maybe_free_model_hooks()
    return output.frames


@contextmanager
def scheduler_of(pipe: Any, name: Scheduler) -> Iterator[None]:
    """Let `pipe` sample with the scheduler `name`; its own comes back afterwards.

    One that the weights do not name takes over the noise schedule of theirs, with the timestep
    spacing that the authors sample with ("trailing": from pure noise).
    """
    import diffusers

    own = pipe.scheduler
    wanted = _SCHEDULER_CLASSES[name]
    if type(own).__name__ != wanted:
        own = getattr(diffusers, wanted).from_config(own.config, timestep_spacing="trailing")
    with sampling_with(pipe, own):
        yield


@contextmanager
def sampling_with(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Let `pipe` sample with `scheduler`, one of diffusers' kind; its own comes back afterwards."""
    own = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        yield
    finally:
        pipe.scheduler = own


def _progress(steps: int) -> OnStep:
    every = math.ceil(steps / _MAX_PROGRESS_LINES)
    started = time.monotonic()

    def report(_pipe: Any, index: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        step = index + 1
        if step % every == 0 or step == steps:
            seconds = (time.monotonic() - started) / step
            print(f"step {step}/{steps}, {seconds:.2f} s per step", flush=True)
        return {}

    return report
