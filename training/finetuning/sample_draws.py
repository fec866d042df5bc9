"""What is random about one sample of a training step, drawn from a generator of its own.

Each sample's generator is seeded by the run's seed, the step and the sample's place in the global
batch alone. So a run that is resumed, and one that is spread over more or fewer processes, draws
the same numbers. The order of the draws is fixed, and all are made whatever the settings say: two
runs that differ in one option see the same noise. What only image-to-video needs comes last.
"""

from dataclasses import dataclass

import numpy as np
import torch

from training.noise_schedule import TIMESTEPS

# The run's seed, the step and the place in the global batch, each from 0 to before 2^32.
SampleSeed = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageDraws:
    """What is random about the image condition; normal means standard normal."""

    log_sigma: float
    """Normal, for the strength of the pixel noise."""
    pixels: torch.Tensor
    """Normal `[3, H, W]`."""
    posterior: torch.Tensor
    """Normal `[C, 1, H / 8, W / 8]`, the choice among the VAE's latents of the noisy image."""
    dropout: float
    """Uniform in 0…1: the image is dropped where this is below the share."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleDraws:
    """All that is random about a sample; tensors are float32 on the CPU."""

    posterior: torch.Tensor
    """Normal `[C, F, H, W]`, the choice among the VAE's latents of the clip."""
    timestep: int
    """Uniform in 0…999."""
    noise: torch.Tensor
    """Normal `[frames, C, H, W]`, frames that fill up a temporal patch included."""
    caption_dropout: float
    """Uniform in 0…1: the caption is dropped where this is below the share."""
    image: ImageDraws | None


def draw_sample(
    seed: SampleSeed,
    latents: tuple[int, int, int, int],
    *,
    frames: int,
    image: tuple[int, int, int] | None,
) -> SampleDraws:
    """Draw for one sample.

    Args:
        latents: the shape (C, F, H, W) of its latents.
        frames: the latent frames that the transformer sees, `F` or more.
        image: the shape (3, H, W) of the input image in pixels; None for text-to-video.
    """
    generator = _generator(seed)
    channels, _, height, width = latents
    # Keyword arguments are evaluated in the order in which they are written.
    return SampleDraws(
        posterior=torch.randn(latents, generator=generator),
        timestep=int(torch.randint(TIMESTEPS, (), generator=generator)),
        noise=torch.randn((frames, channels, height, width), generator=generator),
        caption_dropout=float(torch.rand((), generator=generator)),
        image=_draw_image(generator, image, (channels, 1, height, width)) if image else None,
    )


def _draw_image(
    generator: torch.Generator, pixels: tuple[int, int, int], latents: tuple[int, int, int, int]
) -> ImageDraws:
    return ImageDraws(
        log_sigma=float(torch.randn((), generator=generator)),
        pixels=torch.randn(pixels, generator=generator),
        posterior=torch.randn(latents, generator=generator),
        dropout=float(torch.rand((), generator=generator)),
    )


def _generator(seed: SampleSeed) -> torch.Generator:
    """A CPU generator, seeded with 63 bits that numpy's SeedSequence mixes from the three numbers.

    numpy promises that these bits never change. torch's CPU generator takes 32 of them: in a run of
    64,000 samples two may well share their numbers, which does no harm.
    """
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)
