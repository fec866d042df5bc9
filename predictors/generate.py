"""A request becomes a video file."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictors.decoding import decode
from predictors.denoising import denoise
from predictors.input_image import fit_image, read_image
from predictors.lora.fetch import fetch_lora
from predictors.outputs import new_output
from predictors.prompt_embeddings import dropped_text
from predictors.request import Request, validate
from predictors.speed import speed_preset
from predictors.stage_log import StageLog
from predictors.video import write_video
from weights.urls import shown_url

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from predictors.video_model import VideoModel


def generate(
    model: "VideoModel",
    inputs: Mapping[str, Any],
    *,
    record_metric: Callable[[str, float], object],
) -> Path:
    """Make the video that the inputs of `predict_*.py` describe and return the path of its file.

    Prints the seed, the progress and a line per stage; records the seconds of each stage.

    Raises:
        UserError: an input is not what the variant can do.
        OperationError: the model's output is not finite, or a LoRA can't be fetched.
    """
    log = StageLog(record_metric)
    request, image = _checked(model, inputs)
    print(f"Using seed: {request.seed}", flush=True)
    log.record("seed", request.seed)
    log.record("frames", request.num_frames)
    log.record("steps", request.num_inference_steps)
    frames = sample(model, request, image, log)
    path = new_output(f".{request.output_format}")
    with log.stage("encode"):
        write_video(
            frames,
            path,
            fps=request.fps,
            output_format=request.output_format,
            quality=request.output_quality,
            metadata=_metadata(model, request) if model.settings.metadata else None,
        )
    return path


def sample(
    model: "VideoModel", request: Request, image: "Image | None", log: StageLog
) -> "np.ndarray":
    """The frames of `request`: (frames, height, width, 3) uint8 RGB.

    Args:
        image: the first frame, of the request's size; None for text-to-video.

    Raises:
        UserError: the LoRA is not one for this model.
        OperationError: the model's output is not finite, or the LoRA can't be fetched.
    """
    with ExitStack() as stack:
        # A request that was cancelled may have left these two undone, or still be at them.
        model.pipe.maybe_free_model_hooks()
        if not request.lora:
            stack.enter_context(model.adapters.applied(None, request.lora_scale))
        else:
            with log.stage("lora"):
                places = model.settings.lora_places
                # In one line: cancelled between two, a request would hold the file for good.
                use = stack.enter_context(fetch_lora(request.lora, model.cache, places))
                stack.enter_context(model.adapters.applied(use.path, request.lora_scale))
        with log.stage("encode_prompt") as details:
            guidance = request.guidance_scale > 1
            embeddings = model.prompts.encode(
                request.prompt, request.negative_prompt, guidance=guidance
            )
            details["cached"] = embeddings.hits == 1 + guidance
        log.record("prompt_cache_hits", embeddings.hits)
        _tell_what_is_dropped(model, request)
        with (
            log.stage("denoise"),
            speed_preset(model.pipe, request.speed, request.num_inference_steps),
        ):
            latents = denoise(model.pipe, request, embeddings, image)
        with log.stage("decode"):
            return decode(model.pipe, latents, request.num_frames)


def _checked(model: "VideoModel", inputs: Mapping[str, Any]) -> tuple[Request, "Image | None"]:
    """The request, and its image as the first frame; nothing of the model runs for it."""
    if "image" not in inputs:
        return validate(model.variant, **inputs), None
    image = read_image(inputs["image"])
    others = {name: value for name, value in inputs.items() if name != "image"}
    request = validate(model.variant, **others, image_size=image.size)
    return request, fit_image(image, request.width, request.height, request.image_fit)


def _tell_what_is_dropped(model: "VideoModel", request: Request) -> None:
    prompts = {"prompt": request.prompt}
    if request.guidance_scale > 1:
        prompts["negative_prompt"] = request.negative_prompt
    for name, prompt in prompts.items():
        dropped = dropped_text(model.pipe.tokenizer, prompt, model.variant.text_tokens)
        if dropped:
            # Quoted and escaped: a prompt with line breaks could else forge lines of the log.
            shown = repr(dropped) if model.settings.log_prompts else f"{len(dropped)} characters"
            print(
                f"The {name} has more than {model.variant.text_tokens} tokens; "
                f"the model does not see: {shown}",
                flush=True,
            )


def _metadata(model: "VideoModel", request: Request) -> dict[str, str]:
    """What the file says of its making. A LoRA's URL may hold a secret: it is shortened."""
    settings = asdict(request) | {"lora": shown_url(request.lora)}
    prompt, seed = settings.pop("prompt"), settings.pop("seed")
    return {
        "prompt": prompt,
        "seed": str(seed),
        "variant": model.variant.name,
        "settings": json.dumps(settings, sort_keys=True),
    }
