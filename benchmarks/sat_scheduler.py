"""How far diffusers' schedulers are from SAT's samplers, on nano, with the same noise.

    python benchmarks/sat_scheduler.py
    python benchmarks/sat_scheduler.py --steps 37 --constant
    python benchmarks/sat_scheduler.py --prompts 24 --json

Each prompt is sampled by SAT's sampler and by diffusers' scheduler of the same solver, from the
same latents, with the same noise at each step, guidance and text; "text" is what SAT's sampler
makes of diffusers' unconditional text, the embedding of "", instead of SAT's zeros. Latents are
compared as the transformer leaves them, PSNR is of the decoded frames, a mean over the prompts.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

# benchmarks/weights.py would stand before the package of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from cli.nano import CHECKPOINTS, convert_nano  # noqa: E402
from sampling.sat_scheduler import CogVideoXSATScheduler  # noqa: E402
from training.nano.evaluate import load_pipeline  # noqa: E402
from training.nano.models import NANO  # noqa: E402
from training.nano.sampling import tasks  # noqa: E402

_THEIRS = {"dpmpp2m": "CogVideoXDPMScheduler", "ddim": "CogVideoXDDIMScheduler"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=8, help="default: 8")
    parser.add_argument("--steps", type=int, default=50, help="default: 50")
    parser.add_argument("--guidance", type=float, default=6.0, help="default: 6")
    parser.add_argument(
        "--constant", action="store_true", help="guidance that is the same at every step"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    pipe = load_pipeline(convert_nano("nano", CHECKPOINTS))
    own = pipe.scheduler.config
    rows = [
        {"sampler": sampler, "instead": instead, **_compared(pipe, own, sampler, instead, options)}
        for sampler in _THEIRS
        for instead in ("scheduler", "text")
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print("sampler  instead    largest    mean     std    PSNR  worst")
    for row in rows:
        print(
            f"{row['sampler']:8} {row['instead']:9} {row['largest']:8.4f} {row['mean']:8.5f}"
            f" {row['std']:6.2f} {row['psnr']:7.1f} {row['worst_psnr']:6.1f}"
        )


def _compared(
    pipe: Any, own: Any, sampler: str, instead: str, options: argparse.Namespace
) -> dict[str, float]:
    """What another scheduler or text makes of it: differences of latents, decibels of frames.

    Args:
        own: the config of the pipeline's own scheduler.
    """
    sat = CogVideoXSATScheduler.from_config(own, sampler=sampler)
    theirs = getattr(diffusers, _THEIRS[sampler]).from_config(own, timestep_spacing="trailing")
    wanted = tasks(options.prompts, held_out=False, independent_start=False)
    differences, latents, psnrs = [], [], []
    for number, task in enumerate(wanted):
        text, empty = _encoded(pipe, task.prompt), _encoded(pipe, "")
        zeros = torch.zeros_like(text)
        first = _sampled(pipe, sat, text, zeros, number, options)
        second = (
            _sampled(pipe, theirs, text, zeros, number, options)
            if instead == "scheduler"
            else _sampled(pipe, sat, text, empty, number, options)
        )
        latents.append(first)
        differences.append((first - second).abs())
        psnrs.append(_psnr(_frames(pipe, first), _frames(pipe, second)))
    difference = torch.cat(differences)
    return {
        "largest": float(difference.max()),
        "mean": float(difference.mean()),
        "std": float(torch.cat(latents).std()),
        "psnr": float(np.mean(psnrs)),
        "worst_psnr": float(min(psnrs)),
    }


def _encoded(pipe: Any, prompt: str) -> torch.Tensor:
    embeddings: torch.Tensor = pipe.encode_prompt(
        prompt, do_classifier_free_guidance=False, max_sequence_length=NANO.text_tokens
    )[0]
    return embeddings


def _sampled(
    pipe: Any,
    scheduler: Any,
    text: torch.Tensor,
    unconditional: torch.Tensor,
    seed: int,
    options: argparse.Namespace,
) -> torch.Tensor:
    pipe.scheduler = scheduler
    latents: torch.Tensor = pipe(
        prompt_embeds=text,
        negative_prompt_embeds=unconditional,
        width=NANO.width,
        height=NANO.height,
        num_frames=NANO.default_frames,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        use_dynamic_cfg=not options.constant,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).frames
    return latents


@torch.no_grad()
def _frames(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """Frames from 0 to 1."""
    frames: torch.Tensor = pipe.decode_latents(latents)
    return (frames / 2 + 0.5).clamp(0, 1)


def _psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(-10 * (first - second).pow(2).mean().log10())


if __name__ == "__main__":
    main()
