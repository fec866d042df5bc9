"""What a step of nano's denoiser learns from: its batch, and the losses of that.

The same step of the same settings has the same batch and the same random numbers, so that a run
that was interrupted goes on as if it had not been.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from training.nano.clips import Clips
from training.nano.denoiser_settings import DenoiserSettings, Guided
from training.nano.models import NANO
from training.noise_schedule import TIMESTEPS
from training.v_prediction import (
    add_noise,
    denoised,
    implied_noise,
    velocity,
    velocity_towards,
)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step learns from.

    `noisy` and the velocities `target` are `[B, F, C, H, W]` float32, and so is `condition`: the
    latent of the first frame, then zeros; None for text to video. `weights` `[B, F, 1, H, W]`
    float32 have the mean 1 as drawn. `timesteps` `[B]` and `tokens` `[B, 16]` are int64. `prompted`
    `[B]` bool is False where the prompt was left out.
    """

    noisy: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor
    timesteps: torch.Tensor
    tokens: torch.Tensor
    prompted: torch.Tensor
    condition: torch.Tensor | None

    def on(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        tensors = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Batch(*(None if tensor is None else tensor.to(device) for tensor in tensors))


class Denoiser(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Transformer and text encoder as one: tokens and noisy latents in, velocities out."""

    def __init__(self, transformer: Any, text_encoder: Any) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        tokens: torch.Tensor,
        condition: torch.Tensor | None,
    ) -> torch.Tensor:
        text = self.text_encoder(tokens)[0]
        latents = noisy if condition is None else torch.cat([noisy, condition], dim=2)
        output: torch.Tensor = self.transformer(
            hidden_states=latents,
            encoder_hidden_states=text,
            timestep=timesteps,
            return_dict=False,
        )[0]
        return output.float()


def tokenize(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    """Token ids `[N, 16]`, padded as the pipeline pads."""
    ids: torch.Tensor = tokenizer(
        prompts, padding="max_length", max_length=NANO.text_tokens, return_tensors="pt"
    ).input_ids
    assert ids.shape[1] == NANO.text_tokens, "a prompt has too many words"
    return ids


def canonical(words: tuple[str, str, str]) -> str:
    colour, shape, direction = words
    return f"a {colour} {shape} moving {direction}"


def _timesteps(settings: DenoiserSettings, rng: np.random.Generator, share: float) -> torch.Tensor:
    focus = settings.focus
    evenly = rng.integers(0, TIMESTEPS, settings.batch)
    focused = np.rint(rng.normal(focus.mean, focus.spread, settings.batch)).astype(np.int64)
    taken = np.where(rng.random(settings.batch) < share, focused, evenly)
    return torch.from_numpy(np.clip(taken, 0, TIMESTEPS - 1))


def draw_batch(
    settings: DenoiserSettings,
    clips: Clips,
    tokens: torch.Tensor,
    alphas: torch.Tensor,
    step: int,
    *,
    image_to_video: bool,
) -> Batch:
    """The batch of a step; the same step gives the same batch.

    `tokens` `[73, P, 16]` are the prompts of each combination of words; the last row is no prompt.
    """
    rng = np.random.default_rng([settings.seed, step])
    opening = step < settings.opening_steps
    chosen = torch.from_numpy(rng.integers(0, len(clips.words), settings.batch))
    latents = clips.latents[chosen].float()
    timesteps = _timesteps(settings, rng, 0.0 if opening else settings.focus.share)
    noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
    prompted = torch.from_numpy(rng.random(settings.batch) >= settings.prompt_dropout)
    # The canonical prompt, which is the first, every other time, and always in the opening.
    says = rng.integers(1, tokens.shape[1], settings.batch) * rng.integers(0, 2, settings.batch)
    says = says * (not opening)
    rows = torch.where(prompted, clips.words[chosen], len(tokens) - 1)
    weights = 1 + settings.shape_weight * clips.weights[chosen]
    condition = None
    if image_to_video:
        condition = torch.zeros_like(latents)
        condition[:, :1] = clips.images[chosen]
    return Batch(
        noisy=add_noise(latents, noise, alphas[timesteps]),
        target=velocity(latents, noise, alphas[timesteps]),
        weights=weights / weights.mean(),
        timesteps=timesteps,
        tokens=tokens[rows, torch.from_numpy(says)],
        prompted=prompted,
        condition=condition,
    )


def _plain_loss(denoiser: Denoiser, batch: Batch) -> torch.Tensor:
    predicted = denoiser(batch.noisy, batch.timesteps, batch.tokens, batch.condition)
    return (batch.weights * (predicted - batch.target) ** 2).mean()


def _guided(prompted: torch.Tensor, without: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """What classifier-free guidance by `scales` `[B]` makes of two predictions."""
    return without + scales.reshape(-1, 1, 1, 1, 1) * (prompted - without)


def with_own_predictions(
    denoiser: Denoiser,
    batch: Batch,
    empty: torch.Tensor,
    alphas: torch.Tensor,
    settings: DenoiserSettings,
    step: int,
) -> Batch:
    """The batch, its last samples noised again from what the model predicts of them, with guidance.

    Trained on noised originals alone, a model takes the errors of its own earlier steps for part of
    the picture and keeps them (exposure bias; the remedy is that of Bengio et al. 2015, "Scheduled
    Sampling"): here it is one step of sampling that goes wrong, and the original that is right.
    Their errors count as those of the denoised latents, since the velocity's have no bound here.
    """
    own, last = settings.own_predictions, slice(-settings.own_predictions.samples, None)
    rng, device = np.random.default_rng([settings.seed, step, 2]), batch.noisy.device
    high = rng.integers(own.above, own.below, own.samples)
    low = high - rng.integers(own.shortest, own.longest, own.samples, endpoint=True)
    scales = rng.uniform(1, settings.guided.highest, own.samples).astype(np.float32)
    kept = rng.random((own.samples, 1, 1, 1, 1)) < 0.5
    drawn = rng.standard_normal(batch.noisy[last].shape, np.float32)
    before = alphas[batch.timesteps[last]]
    latents = denoised(batch.noisy[last], batch.target[last], before)
    noise = implied_noise(batch.noisy[last], batch.target[last], before)
    timesteps, lower = torch.from_numpy(high).to(device), torch.from_numpy(low).to(device)
    noisy = add_noise(latents, noise, alphas[timesteps])
    condition = None if batch.condition is None else batch.condition[last].repeat(2, 1, 1, 1, 1)
    with torch.no_grad():
        prompted, without = denoiser(
            noisy.repeat(2, 1, 1, 1, 1),
            timesteps.repeat(2),
            torch.cat([batch.tokens[last], empty.expand(own.samples, -1)]),
            condition,
        ).chunk(2)
    predicted = _guided(prompted, without, torch.from_numpy(scales).to(device))
    # Samplers keep the noise that the prediction implies, or draw part of it anew.
    implied = implied_noise(noisy, predicted, alphas[timesteps])
    noise = torch.where(
        torch.from_numpy(kept).to(device), implied, torch.from_numpy(drawn).to(device)
    )
    noisy = add_noise(denoised(noisy, predicted, alphas[timesteps]), noise, alphas[lower])
    target = velocity_towards(latents, noisy, alphas[lower])
    share = (1 - alphas[lower]).reshape(-1, 1, 1, 1, 1)
    return dataclasses.replace(
        batch,
        noisy=torch.cat([batch.noisy[: -own.samples], noisy]),
        target=torch.cat([batch.target[: -own.samples], target]),
        weights=torch.cat([batch.weights[: -own.samples], batch.weights[last] * share]),
        timesteps=torch.cat([batch.timesteps[: -own.samples], lower]),
    )


def _guided_losses(
    denoiser: Denoiser, batch: Batch, empty: torch.Tensor, guided: Guided, scales: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain loss, and that of the first samples under the guidance `scales` `[S]`.

    Guidance g takes u + g·(p − u), p being the prediction with the prompt and u without; its
    squared error counts over the square of g. Where the noisy latents already show what the prompt
    says, p and u should be the same; what differs is error, and g times it ruins outlines.
    """
    few = len(scales)
    condition = batch.condition
    output = denoiser(
        torch.cat([batch.noisy, batch.noisy[:few]]),
        torch.cat([batch.timesteps, batch.timesteps[:few]]),
        torch.cat([batch.tokens, empty.expand(few, -1)]),
        None if condition is None else torch.cat([condition, condition[:few]]),
    )
    count = len(batch.timesteps)
    predicted, without = output[:count], output[count:]
    plain = (batch.weights * (predicted - batch.target) ** 2).mean()
    taken = _guided(predicted[:few], without, scales)
    errors = batch.weights[:few] * (taken - batch.target[:few]) ** 2
    fitting = batch.prompted[:few] & (batch.timesteps[:few] < guided.below)
    return plain, (errors.flatten(1).mean(1) / scales**2 * fitting).sum() / count


def losses(
    denoiser: Denoiser, batch: Batch, empty: torch.Tensor, settings: DenoiserSettings, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain loss of a step's batch and, after the opening, the guided one; 0 before.

    `empty` `[1, 16]` are the tokens of no prompt.
    """
    if step < settings.opening_steps:
        plain = _plain_loss(denoiser, batch)
        return plain, torch.zeros_like(plain)
    guided = settings.guided
    rng = np.random.default_rng([settings.seed, step, 1])
    scales = torch.from_numpy(rng.uniform(1, guided.highest, guided.samples).astype(np.float32))
    return _guided_losses(denoiser, batch, empty, guided, scales.to(batch.noisy.device))
