"""The options of sampling, for `cogvideox sample` and for `python -m sampling`.

Those of a request are spelled as in the API. Nothing heavy is imported for `--help`: the choices
are written out here, and a test compares them with the API's.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from weights.variants import Task

SCHEDULERS = ("auto", "dpm", "ddim", "sat", "sat-ddim")
SPEEDS = ("quality", "balanced", "fast")
OUTPUT_FORMATS = ("mp4", "webm", "gif")
IMAGE_FITS = ("crop", "pad", "stretch")
TYPED = "-"

DEFAULT_SEED = 42
MAX_SEED = 2**31 - 1
MAX_BATCH = 64
_DEFAULT_WEIGHTS: dict[Task, str] = {"t2v": "nano", "i2v": "nano-i2v"}
# The request fields that are options: all but the prompt, the image and the seed.
REQUEST_OPTIONS = (
    "negative_prompt",
    "num_frames",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "dynamic_guidance",
    "scheduler",
    "fps",
    "lora",
    "lora_scale",
    "speed",
    "output_format",
    "output_quality",
    "image_fit",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompts",
        metavar="PROMPTS",
        nargs="?",
        help="text with a prompt a line (prompt@@image.png for i2v), .jsonl, .csv or .parquet; "
        "- to type them",
    )
    parser.add_argument(
        "out", metavar="OUT", nargs="?", help="a folder, or s3://, gs:// or az://bucket/prefix"
    )
    parser.add_argument(
        "--weights",
        metavar="W",
        help="a weights folder, a *.lock.json, a variant's name or a SAT checkpoint "
        "(default: $COGVIDEOX_WEIGHTS, or nano and nano-i2v)",
    )
    parser.add_argument("--task", choices=["t2v", "i2v"], help="default: what the weights are for")
    parser.add_argument(
        "--sat-config", type=Path, metavar="YAML", help="take settings from SAT's model.yaml"
    )
    parser.add_argument(
        "--inference", type=Path, metavar="YAML", help="and from its inference.yaml"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    _add_run_arguments(parser.add_argument_group("run"))
    _add_request_arguments(
        parser.add_argument_group("request", "for lines that leave these blank; as in the API")
    )


def _add_run_arguments(group: Any) -> None:
    group.add_argument(
        "--batch", type=int, default=1, metavar="B", help="lines of one shape sampled at once"
    )
    group.add_argument("--retry-failed", action="store_true", help="try failed lines again")
    group.add_argument(
        "--overwrite", action="store_true", help="make clips anew that were made otherwise"
    )


def _add_request_arguments(group: Any) -> None:
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help=f"line n has the seed N + n, where it has none of its own (default: {DEFAULT_SEED})",
    )
    group.add_argument("--negative-prompt", metavar="TEXT")
    group.add_argument("--num-frames", type=int, metavar="N")
    group.add_argument("--width", type=int, metavar="PIXELS")
    group.add_argument("--height", type=int, metavar="PIXELS")
    group.add_argument("--num-inference-steps", type=int, metavar="N")
    group.add_argument("--guidance-scale", type=float, metavar="X")
    group.add_argument("--dynamic-guidance", action=argparse.BooleanOptionalAction)
    group.add_argument(
        "--scheduler", choices=SCHEDULERS, help="sat and sat-ddim: as SAT's own samplers"
    )
    group.add_argument("--fps", type=int, metavar="N")
    group.add_argument("--lora", metavar="L", help="a file, a URL or a repository")
    group.add_argument("--lora-scale", type=float, metavar="X")
    group.add_argument("--speed", choices=SPEEDS)
    group.add_argument("--output-format", choices=OUTPUT_FORMATS)
    group.add_argument("--output-quality", type=int, metavar="1..100")
    group.add_argument("--image-fit", choices=IMAGE_FITS)


def given_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The request fields that were given, and the seed."""
    names = (*REQUEST_OPTIONS, "seed")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def chosen_weights(options: argparse.Namespace, task: Task | None) -> str:
    """The weights to sample with: the option, else the operator's, else the small model."""
    weights: str = (
        options.weights or os.environ.get("COGVIDEOX_WEIGHTS") or _DEFAULT_WEIGHTS[task or "t2v"]
    )
    return weights
