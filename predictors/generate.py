"""A request becomes a video file."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from predictors.outputs import new_output
from predictors.pipeline import LoadedPipeline
from predictors.request import Request, validate
from predictors.video import write_mp4
from weights.errors import OperationError

_MAX_PROGRESS_LINES = 50


def generate(
    loaded: LoadedPipeline,
    *,
    prompt: str,
    num_inference_steps: int,
    guidance_scale: float,
    num_frames: int | None,
    seed: int | None,
    record_metric: Callable[[str, float], object],
) -> Path:
    """Make the video that the inputs describe and return the path of its MP4.

    Prints the seed and the progress; records the seconds of each stage.

    Raises:
        UserError: an input is not what the variant can do.
        OperationError: the model's output is not finite.
    """
    request = validate(
        loaded.variant,
        prompt=prompt,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        num_frames=num_frames,
        seed=seed,
    )
    print(f"Using seed: {request.seed}", flush=True)
    started = time.monotonic()
    frames = sample(loaded, request)
    sampled = time.monotonic()
    path = new_output(".mp4")
    write_mp4(frames, path, loaded.variant.fps)
    record_metric("timing.sample", sampled - started)
    record_metric("timing.encode", time.monotonic() - sampled)
    return path


def sample(loaded: LoadedPipeline, request: Request) -> np.ndarray:
    """The frames of `request`: (frames, height, width, 3) uint8 RGB.

    Raises:
        OperationError: the model's output is not finite.
    """
    import torch

    variant = loaded.variant
    try:
        output = loaded.pipe(
            prompt=request.prompt,
            height=variant.height,
            width=variant.width,
            num_frames=request.num_frames,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            # Upstream samples with guidance that grows over the steps, with this scheduler only.
            use_dynamic_cfg=type(loaded.pipe.scheduler).__name__ == "CogVideoXDPMScheduler",
            max_sequence_length=variant.text_tokens,
            # Drawn on the CPU, the noise of a seed is the same on every machine.
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="np",
            callback_on_step_end=_progress(request.num_inference_steps),
        )
    finally:
        # A cancelled run leaves hooks and caches behind that would spoil the next one. Cancelling
        # is an exception that Cog raises between two bytecodes: it must pass through here.
        loaded.pipe.maybe_free_model_hooks()
    return to_uint8(output.frames[0])


def to_uint8(video: np.ndarray) -> np.ndarray:
    """(frames, height, width, 3) floats from 0 to 1, as uint8.

    Raises:
        OperationError: a value is not finite; encoders take it without a word.
    """
    frames = np.empty(video.shape, np.uint8)
    for index, image in enumerate(video):
        if not np.isfinite(image).all():
            raise OperationError(
                f"The model's output is not finite in frame {index}.",
                "Every pixel must be a number.",
                "The usual cause is weights that run in another dtype than they were trained in: "
                "see `cogvideox variants`.",
            )
        frames[index] = np.rint(image * 255)
    return frames


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
