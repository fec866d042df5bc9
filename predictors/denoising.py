"""The denoising loop of diffusers' pipelines, from text embeddings and an image to latents."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from predictors.prompt_embeddings import Embeddings
from predictors.request import Request, Scheduler

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

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
    import torch

    with scheduler_of(pipe, request.scheduler):
        try:
            output = pipe(
                **({"image": image} if image else {}),
                prompt_embeds=embeddings.prompt_embeds,
                negative_prompt_embeds=embeddings.negative_prompt_embeds,
                height=request.height,
                width=request.width,
                num_frames=request.num_frames,
                num_inference_steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
                # As in SAT, a cosine of the timestep, 999 and down, and not of the step's number:
                # it does not grow, but jumps about between 1 and the scale + 1.
                use_dynamic_cfg=request.dynamic_guidance,
                # Drawn on the CPU, the noise of a seed is the same on every machine.
                generator=torch.Generator("cpu").manual_seed(request.seed),
                output_type="latent",
                callback_on_step_end=_progress(request.num_inference_steps),
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
        pipe.scheduler = getattr(diffusers, wanted).from_config(
            own.config, timestep_spacing="trailing"
        )
    try:
        yield
    finally:
        pipe.scheduler = own


def _progress(steps: int) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    every = math.ceil(steps / _MAX_PROGRESS_LINES)
    started = time.monotonic()

    def report(_pipe: Any, index: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        step = index + 1
        if step % every == 0 or step == steps:
            seconds = (time.monotonic() - started) / step
            print(f"step {step}/{steps}, {seconds:.2f} s per step", flush=True)
        return {}

    return report
