"""The five released variants at the size of their golden data, with random weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

from training.finetuning.objective import Objective, Sample
from training.finetuning.settings import FinetuneSettings
from weights.variants import VARIANTS

GOLDEN = Path(__file__).parents[2] / "golden"
VARIANT_OF_GOLDEN = {
    "2b": "cogvideox-2b",
    "5b": "cogvideox-5b",
    "5b_i2v": "cogvideox-5b-i2v",
    "1.5_5b": "cogvideox1.5-5b",
    "1.5_5b_i2v": "cogvideox1.5-5b-i2v",
}
T2V = ("2b", "5b", "1.5_5b")
I2V = ("5b_i2v", "1.5_5b_i2v")
# Latents of a clip of 64 by 96 pixels, and their frames: 5b_i2v has learned positions of three, and
# for 1.5 an odd number has to be filled up.
HEIGHT, WIDTH, FRAMES = 8, 12, 3
TOKENS, TEXT_WIDTH = 10, 40


@dataclass(frozen=True)
class TinyVariant:
    """The parts of a variant that training needs."""

    golden: str
    transformer: Any
    vae: Any

    @property
    def variant(self):
        return VARIANTS[VARIANT_OF_GOLDEN[self.golden]]

    def objective(self, *, dtype=torch.float32, **settings):
        """Its objective; a caption or an image is dropped only where the settings say so."""
        kept = {"caption_dropout": 0.0, "image_dropout": 0.0}
        return Objective(
            variant=self.variant,
            config=self.transformer.config,
            settings=FinetuneSettings(**kept | settings),
            empty_prompt=numbers(TOKENS, TEXT_WIDTH, seed=99),
            device=torch.device("cpu"),
            dtype=dtype,
            vae=self.vae,
        )

    def sample(self, seed=0, frames=FRAMES, height=HEIGHT, width=WIDTH):
        """A random clip; means are about as large as standard deviations."""
        i2v = self.variant.task == "i2v"
        return Sample(
            moments=numbers(32, frames, height, width, seed=seed),
            prompt=numbers(TOKENS, TEXT_WIDTH, seed=seed + 100),
            image=numbers(3, 8 * height, 8 * width, seed=seed + 200).clamp(-1, 1) if i2v else None,
        )


def numbers(*shape, seed=0):
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny_variant(golden):
    """Build one, the same each time."""
    config = json.loads((GOLDEN / golden / "diffusers_config.json").read_text())
    variant = VARIANTS[VARIANT_OF_GOLDEN[golden]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = CogVideoXTransformer3DModel.from_config(config).eval()
        vae = AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8),
            norm_num_groups=2,
            layers_per_block=1,
            latent_channels=16,
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            scaling_factor=variant.vae_scaling_factor,
            invert_scale_latents=variant.invert_scale_latents,
        ).eval()
    return TinyVariant(golden, transformer.requires_grad_(False), vae.requires_grad_(False))
