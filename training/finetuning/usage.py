"""How a fine-tuning's result is used, as commands and code for its card."""

import json
import shlex
from dataclasses import dataclass

from training.finetuning.markdown_text import one_line
from weights.variants import PIPELINES, Variant

# What an image-to-video model begins from, where the reader has to name something.
_IMAGE = "first.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A result to use; the texts may be anyone's.

    `result` is the name of the LoRA's file, or of the weights folder where the training was `full`.
    `base` is what --base named.
    """

    variant: Variant
    result: str
    full: bool
    base: str
    prompt: str
    frames: int
    width: int
    height: int


def server_commands(usage: Usage) -> str:
    """Shell commands that make a video with it through the real Cog server."""
    base, result = _quoted(usage.base), _quoted(usage.result)
    image = f" -i image=@{_IMAGE}" if usage.variant.task == "i2v" else ""
    inputs = f"-i prompt={_quoted(usage.prompt)}{image}"
    predict = f"cogvideox predict {usage.variant.task}"
    if usage.full:
        packed = _quoted(f"{usage.result}.tar")
        return (
            f"{predict} --weights ./{result} {inputs} -o out.mp4\n"
            f"cogvideox pack ./{result} ./{packed}"
        )
    return (
        f'COGVIDEOX_LORA_PATHS="$PWD" {predict} --weights {base} \\\n'
        f'    {inputs} -i lora="$PWD"/{result} -o out.mp4'
    )


def diffusers_code(usage: Usage) -> str:
    """Python that makes a video with it by plain diffusers, with no code of ours."""
    variant, pipeline = usage.variant, PIPELINES[usage.variant.task]
    i2v = variant.task == "i2v"
    folder = variant.repository or f"path/to/{variant.name}"
    arguments = [
        f"    prompt={_literal(usage.prompt)},",
        *([f'    image=load_image("{_IMAGE}"),'] if i2v else []),
        f"    num_frames={usage.frames}, width={usage.width}, height={usage.height},",
        # The pipelines have the number of the first models, and cut or pad the prompt by it.
        f"    max_sequence_length={variant.text_tokens},",
    ]
    return "\n".join(
        [
            "import torch",
            f"from diffusers import {pipeline}",
            f"from diffusers.utils import export_to_video{', load_image' if i2v else ''}",
            "",
            f"pipe = {pipeline}.from_pretrained(",
            f"    {_literal(usage.result if usage.full else folder)}, dtype=torch.{variant.dtype}",
            ")",
            *([] if usage.full else [f"pipe.load_lora_weights({_literal(usage.result)})"]),
            "pipe.enable_model_cpu_offload()",
            "video = pipe(",
            *arguments,
            ").frames[0]",
            f'export_to_video(video, "out.mp4", fps={variant.fps})',
        ]
    )


def _quoted(text: str) -> str:
    return shlex.quote(one_line(text))


def _literal(text: str) -> str:
    """A Python string; without control characters, what JSON writes is one."""
    return json.dumps(one_line(text), ensure_ascii=False)
