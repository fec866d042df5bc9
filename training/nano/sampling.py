"""What a nano pipeline is asked for, and the clips it gives: the prompts, scenes and seeds.

The tasks are the same on every machine. Half of the prompts are canonical, the others are said in
the other ways of training/nano/prompts.py.
"""

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from training.nano.models import NANO
from training.nano.prompts import COMBINATIONS, HELD_OUT, Combination, paraphrase, prompt_of
from training.nano.scenes import Pixels, Scene, random_scene, render

if TYPE_CHECKING:
    import torch

# Figures in model cards are those of this seed.
SEED = 99
_BATCH = 40
# The API's own.
_GUIDANCE, _STEPS = 6.0, 50
# A PSNR for pixels that are all the same: JSON has no infinity.
_MAX_PSNR = 99.0
# Between the noise of one seed and the next: more than a list has tasks.
_NOISE_STRIDE = 100_000


@dataclass(frozen=True, slots=True)
class Task:
    """One clip to sample: the prompt, the scene it describes and the seed of its noise."""

    prompt: str
    scene: Scene
    seed: int


def tasks(count: int, *, held_out: bool, independent_start: bool, seed: int = SEED) -> list[Task]:
    """The first `count` tasks of a list that the seed, 0 or more, settles; every second canonical.

    All combinations of words take turns, in another order every time around: those that training
    sees, or those that it never sees.
    """
    rng = np.random.default_rng([seed, held_out])
    chosen: list[Combination] = [words for words in COMBINATIONS if (words in HELD_OUT) == held_out]
    first = _NOISE_STRIDE * ((seed - SEED) % 2**32) + 10_000 * (1 + held_out)
    order = np.random.default_rng([seed, held_out, 1])
    rounds = [order.permutation(len(chosen)) for _ in range(-(-count // len(chosen)))]
    made = []
    for number, turn in enumerate(np.concatenate(rounds)[:count]):
        colour, shape, direction = chosen[turn]
        scene = random_scene(
            rng,
            colour=colour,
            shape=shape,
            direction=direction,
            independent_start=independent_start,
        )
        prompt = prompt_of(scene) if number % 2 else paraphrase(scene, rng)
        made.append(Task(prompt, scene, first + number))
    return made


def takes_image(pipe: Any) -> bool:
    """Whether a pipeline is image-to-video."""
    return "ImageToVideo" in type(pipe).__name__


def first_images(asked: list[Task]) -> Pixels:
    """The first frames of the scenes, (N, 64, 64, 3) uint8 RGB."""
    return np.stack([render(task.scene)[0] for task in asked])


def _as_tensor(images: Pixels) -> "torch.Tensor":
    """(N, H, W, 3) uint8 to `[N, 3, H, W]` in 0…1."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def sample(pipe: Any, asked: list[Task], guidance: float, steps: int, label: str) -> list[Pixels]:
    """Clips (9, 64, 64, 3) uint8 RGB of the tasks, with a line to stderr for each batch."""
    images = _as_tensor(first_images(asked)) if takes_image(pipe) else None
    prompts, seeds = [task.prompt for task in asked], [task.seed for task in asked]
    return _sample(pipe, prompts, seeds, images, guidance, steps, label)


def sample_prompts(pipe: Any, prompts: list[str], first_seed: int, label: str) -> list[Pixels]:
    """Clips of any prompts, of a text-to-video pipeline with the API's settings, as `sample`."""
    seeds = list(range(first_seed, first_seed + len(prompts)))
    return _sample(pipe, prompts, seeds, None, _GUIDANCE, _STEPS, label)


def _sample(
    pipe: Any,
    prompts: list[str],
    seeds: list[int],
    images: "torch.Tensor | None",
    guidance: float,
    steps: int,
    label: str,
) -> list[Pixels]:
    import torch

    clips: list[Pixels] = []
    began = time.monotonic()
    for start in range(0, len(prompts), _BATCH):
        batch = slice(start, start + _BATCH)
        frames = pipe(
            **({} if images is None else {"image": images[batch]}),
            prompt=prompts[batch],
            width=NANO.width,
            height=NANO.height,
            num_frames=NANO.default_frames,
            num_inference_steps=steps,
            guidance_scale=guidance,
            use_dynamic_cfg=True,
            max_sequence_length=NANO.text_tokens,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[batch]],
            output_type="np",
        ).frames
        clips += list(np.rint(frames * 255).astype(np.uint8))
        seconds = time.monotonic() - began
        line = f"{label}: {len(clips)} of {len(prompts)} clips in {seconds:.0f} s"
        print(line, file=sys.stderr, flush=True)
    return clips


def through_vae(vae: Any, images: Pixels) -> Pixels:
    """Images (N, 64, 64, 3) uint8 RGB, encoded to the means of their latents and decoded again."""
    import torch

    made: list[Pixels] = []
    for start in range(0, len(images), _BATCH):
        clips = _as_tensor(images[start : start + _BATCH]).unsqueeze(2) * 2 - 1
        with torch.no_grad():
            decoded = vae.decode(vae.encode(clips).latent_dist.mean).sample
        pixels = decoded[:, :, 0].clamp(-1, 1).permute(0, 2, 3, 1).numpy()
        made.append(np.rint((pixels + 1) * 127.5).astype(np.uint8))
    return np.concatenate(made)


def mean_psnr(images: Pixels, wanted: Pixels) -> float:
    """The mean PSNR in dB of images (N, 64, 64, 3) uint8; one counts as 99 at most."""
    errors = np.mean((images.astype(float) - wanted) ** 2, axis=(1, 2, 3))
    psnrs = 10 * np.log10(255**2 / np.maximum(errors, 1e-9))
    return float(np.minimum(psnrs, _MAX_PSNR).mean())
