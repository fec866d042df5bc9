"""What a fine-tuning minimises: SAT's objective, for every variant.

A sample's latents get noise of a timestep drawn uniformly from 0…999, and the transformer is to
predict their velocity. SAT weighs the squared error of the denoised latents with 1/(1−ᾱ)
(`sat/sgm/modules/diffusionmodules/loss.py`, `VideoDiffusionLoss`), which is the plain squared error
of the velocity: see `training.v_prediction`.

A dropped caption is replaced by the embedding of the empty prompt, since that is what the served
pipeline's unconditional pass is given; SAT trains and samples with zeros in its place. SAT drops
the images of a whole batch at once; here each sample's is dropped on its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from training.finetuning.image_condition import image_condition
from training.finetuning.positions import check_positions, rotary_embeddings
from training.finetuning.posterior import sample_posterior
from training.finetuning.sample_draws import SampleDraws, SampleSeed, draw_sample
from training.finetuning.settings import FinetuneSettings
from training.latents import to_model
from training.noise_schedule import alphas_cumprod
from training.v_prediction import add_noise, velocity
from weights.variants import Variant

# What CogVideoX1.5-5B-I2V was trained with, and what its pipeline passes.
OFS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A clip as training sees it: float32 tensors on the CPU."""

    moments: torch.Tensor
    """`[2C, F, H, W]`: mean and logarithm of the variance of the VAE's latents."""
    prompt: torch.Tensor
    """`[T, D]`, the T5's embedding of the caption."""
    image: torch.Tensor | None
    """`[3, H, W]` in −1…1, the input image of image-to-video."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What the transformer is given, in its dtype, and the velocity it is to predict, float32."""

    inputs: torch.Tensor
    """`[B, F, channels, H, W]`: noisy latents, and the image condition after them."""
    timesteps: torch.Tensor
    """`[B]`, int64."""
    text: torch.Tensor
    """`[B, T, D]`."""
    ofs: torch.Tensor | None
    """`[1]`, of those variants that have it."""
    rotary: tuple[torch.Tensor, torch.Tensor] | None
    """Cosines and sines `[tokens, head_dim]`, float32, of those variants that have them."""
    target: torch.Tensor
    """`[B, F, C, H, W]`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Objective:
    """What the loss depends on besides the transformer's weights and the samples.

    The VAE is that of image-to-video, on any device; text-to-video needs none.
    """

    variant: Variant
    config: Any
    """Of the transformer: its own `config`, since what wraps it for training may hide that."""
    settings: FinetuneSettings
    empty_prompt: torch.Tensor
    """`[T, D]`, the embedding of ""."""
    device: torch.device
    dtype: torch.dtype
    """What the transformer's inputs are given in."""
    vae: Any | None = None

    def loss(
        self, transformer: Any, samples: Sequence[Sample], seeds: Sequence[SampleSeed]
    ) -> torch.Tensor:
        """The mean loss over the samples, a float32 scalar; what is random comes from `seeds`.

        Raises:
            UserError: the clips have a length that the transformer can't be trained with.
        """
        batch = self.batch(samples, seeds)
        return losses(predict(transformer, batch), batch.target).mean()

    def batch(self, samples: Sequence[Sample], seeds: Sequence[SampleSeed]) -> Batch:
        """Put samples of one shape into a batch, on the objective's device."""
        drawn = [self._draw(sample, seed) for sample, seed in zip(samples, seeds, strict=True)]
        pairs = list(zip(samples, drawn, strict=True))
        latents = torch.stack([self._latents(sample, draws) for sample, draws in pairs])
        timesteps = torch.tensor([draws.timestep for draws in drawn], device=self.device)
        alphas = _alphas(self.variant.snr_shift_scale, self.device)[timesteps]
        noise = torch.stack([draws.noise for draws in drawn]).to(self.device)
        inputs = add_noise(latents, noise, alphas)
        if self.variant.task == "i2v":
            images = torch.stack([self._image(sample, draws) for sample, draws in pairs])
            inputs = torch.cat([inputs, images], dim=2)
        _, frames, _, height, width = latents.shape
        check_positions(self.config, frames)
        return Batch(
            inputs=inputs.to(self.dtype),
            timesteps=timesteps,
            text=torch.stack([self._text(*pair) for pair in pairs]).to(self.device, self.dtype),
            ofs=self._ofs(),
            rotary=rotary_embeddings(self.config, frames, height, width, self.device),
            target=velocity(latents, noise, alphas),
        )

    def _draw(self, sample: Sample, seed: SampleSeed) -> SampleDraws:
        doubled, frames, height, width = sample.moments.shape
        image = None
        if self.variant.task == "i2v":
            assert sample.image is not None
            image = tuple(sample.image.shape)
        return draw_sample(
            seed,
            (doubled // 2, frames, height, width),
            frames=frames + self._padding(frames),
            image=image,
        )

    def _padding(self, frames: int) -> int:
        """How many latent frames are missing to whole temporal patches."""
        return -frames % (self.config.patch_size_t or 1)

    def _latents(self, sample: Sample, drawn: SampleDraws) -> torch.Tensor:
        """`[F, C, H, W]`; the first latent frame is repeated in front to whole temporal patches."""
        moments, noise = sample.moments.to(self.device), drawn.posterior.to(self.device)
        latents = to_model(sample_posterior(moments, noise).unsqueeze(0), self.variant)[0]
        filling = latents[:1].expand(self._padding(len(latents)), -1, -1, -1)
        return torch.cat([filling, latents])

    def _text(self, sample: Sample, drawn: SampleDraws) -> torch.Tensor:
        """`[T, D]`."""
        if drawn.caption_dropout >= self.settings.caption_dropout:
            return sample.prompt
        if self.settings.dropped_caption == "zeros":
            return torch.zeros_like(sample.prompt)
        return self.empty_prompt.to(sample.prompt)

    def _image(self, sample: Sample, drawn: SampleDraws) -> torch.Tensor:
        """The image condition `[F, C, H, W]`."""
        assert drawn.image is not None
        if drawn.image.dropout < self.settings.image_dropout:
            return torch.zeros_like(drawn.noise, device=self.device)
        frames = len(drawn.noise)
        condition = image_condition(
            self.vae, sample.image, drawn.image, self.variant, frames=frames
        )
        return condition.to(self.device)

    def _ofs(self) -> torch.Tensor | None:
        if self.config.ofs_embed_dim is None:
            return None
        return torch.full((1,), OFS, device=self.device, dtype=self.dtype)


@cache
def _alphas(snr_shift_scale: float, device: torch.device) -> torch.Tensor:
    """The cumulative alphas of all timesteps `[1000]`; every batch shares them."""
    return alphas_cumprod(snr_shift_scale).to(device)


def predict(transformer: Any, batch: Batch) -> torch.Tensor:
    """The velocity `[B, F, C, H, W]` that the transformer predicts, float32."""
    predicted = transformer(
        hidden_states=batch.inputs,
        encoder_hidden_states=batch.text,
        timestep=batch.timesteps,
        ofs=batch.ofs,
        image_rotary_emb=batch.rotary,
        return_dict=False,
    )[0]
    return predicted.float()


def losses(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean squared error of each sample `[B]`."""
    return ((predicted - target) ** 2).flatten(1).mean(1)
