"""Latents, weights and prompts of many clips, made once and kept in the run's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from training.latents import encode
from training.nano.prompts import COMBINATIONS, combination_of, training_scene
from training.nano.scenes import masks, render
from training.progress import Steps
from weights.variants import TEMPORAL_COMPRESSION, Variant

_BATCH = 20


@dataclass(frozen=True, slots=True)
class Clips:
    """N clips, as latents in the shape that the model sees.

    `latents` `[N, F, C, H, W]` float16 are of whole clips, `images` `[N, 1, C, H, W]` float16 of
    their first frames alone. `weights` `[N, F, 1, H, W]` float32 are 1 where a cell has a piece of
    the shape and 0 elsewhere. `words` `[N]` int64 are indices of COMBINATIONS.
    """

    latents: torch.Tensor
    images: torch.Tensor
    weights: torch.Tensor
    words: torch.Tensor


def _cells(mask: torch.Tensor, variant: Variant) -> torch.Tensor:
    """Which latent cells a mask `[N, F, H, W]` of pixels touches, `[N, f, 1, h, w]`, 0 or 1.

    The first frame is a latent frame of its own, then every four are one.
    """
    size = (variant.sample_height, variant.sample_width)
    cells = torch.nn.functional.adaptive_max_pool2d((mask > 0).float(), size)
    first, rest = cells[:, :1], cells[:, 1:]
    groups = rest.unflatten(1, (-1, TEMPORAL_COMPRESSION)).amax(2)
    return torch.cat([first, groups], 1).unsqueeze(2)


def make_clips(
    vae: Any,
    variant: Variant,
    count: int,
    seed: int,
    *,
    independent_start: bool,
) -> Clips:
    """Draw `count` scenes and encode them on the CPU; the same seed gives the same clips.

    Combinations of words that are held out are never drawn. With `independent_start` the first
    frame says nothing of the direction.
    """
    rng = np.random.default_rng([seed, 7])
    latents, images, weights, words = [], [], [], []
    for number in Steps("Clips", 0, -(-count // _BATCH)):
        scenes = [
            training_scene(rng, independent_start=independent_start)
            for _ in range(min(_BATCH, count - number * _BATCH))
        ]
        pixels = torch.from_numpy(np.stack([render(scene) for scene in scenes]))
        clips = pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(encode(vae, clips, variant).half())
            images.append(encode(vae, clips[:, :, :1], variant).half())
        mask = torch.from_numpy(np.stack([masks(scene) for scene in scenes]))
        weights.append(_cells(mask, variant))
        words += [COMBINATIONS.index(combination_of(scene)) for scene in scenes]
    return Clips(torch.cat(latents), torch.cat(images), torch.cat(weights), torch.tensor(words))


def save_clips(clips: Clips, path: Path) -> None:
    """Keep clips in a safetensors file, which is there whole or not at all."""
    tensors = {name: getattr(clips, name).contiguous() for name in Clips.__slots__}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.replace(path)


def load_clips(path: Path) -> Clips:
    """The clips that `save_clips` kept."""
    return Clips(**load_file(path))
