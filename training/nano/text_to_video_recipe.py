"""Trains nano's text-to-video denoiser and its T5 on clips that the trained VAE encodes.

python -m training.nano.text_to_video_recipe OUT --vae VAE_RUN/vae
"""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conversion.nano_text_encoder import new_text_encoder, write_tokenizer
from training.ema import Ema
from training.lr_schedules import warmup_cosine
from training.nano.clips import Clips, load_clips, make_clips, save_clips
from training.nano.models import NANO, new_transformer
from training.nano.prompts import COMBINATIONS, paraphrases
from training.noise_schedule import TIMESTEPS, alphas_cumprod
from training.progress import Steps
from training.run_folder import RunFolder
from training.settings import read_settings
from training.v_prediction import add_noise, velocity

SETTINGS = Path(__file__).with_name("text_to_video.yaml")


@dataclass(frozen=True, slots=True)
class Focus:
    """Which timesteps are drawn more often."""

    share: float
    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class Guided:
    """When, for how many samples and up to which guidance the guided prediction is trained."""

    from_step: int
    samples: int
    below: int
    highest: float


@dataclass(frozen=True, slots=True)
class DenoiserSettings:
    """text_to_video.yaml and image_to_video.yaml; the comments there say what each is."""

    seed: int
    clips: int
    batch: int
    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    ema_decay: float
    prompt_dropout: float
    shape_weight: float
    focus: Focus
    guided: Guided
    save_every: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Noisy latents `[B, F, C, H, W]`, their target velocities, weights, timesteps and tokens."""

    noisy: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor
    timesteps: torch.Tensor
    tokens: torch.Tensor
    prompted: torch.Tensor
    condition: torch.Tensor | None


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


def _canonical(words: tuple[str, str, str]) -> str:
    colour, shape, direction = words
    return f"a {colour} {shape} moving {direction}"


def _timesteps(settings: DenoiserSettings, rng: np.random.Generator) -> torch.Tensor:
    focus = settings.focus
    evenly = rng.integers(0, TIMESTEPS, settings.batch)
    focused = np.rint(rng.normal(focus.mean, focus.spread, settings.batch)).astype(np.int64)
    taken = np.where(rng.random(settings.batch) < focus.share, focused, evenly)
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
    chosen = torch.from_numpy(rng.integers(0, len(clips.words), settings.batch))
    latents = clips.latents[chosen]
    timesteps = _timesteps(settings, rng)
    noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
    prompted = torch.from_numpy(rng.random(settings.batch) >= settings.prompt_dropout)
    # The canonical prompt, which is the first, every other time.
    says = rng.integers(1, tokens.shape[1], settings.batch) * rng.integers(0, 2, settings.batch)
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


def _guided_loss(
    denoiser: Denoiser,
    batch: Batch,
    predicted: torch.Tensor,
    empty: torch.Tensor,
    settings: DenoiserSettings,
    step: int,
) -> torch.Tensor:
    """The squared error of the guided prediction, over the square of the guidance.

    Guidance g takes u + g·(p − u), p being the prediction with the prompt and u without. Where the
    noisy latents already show what the prompt says, p and u should be the same; what differs is
    error, and g times it ruins outlines.
    """
    guided = settings.guided
    fitting = batch.prompted & (batch.timesteps < guided.below)
    chosen = fitting.nonzero()[: guided.samples, 0]
    if not len(chosen):
        return predicted.new_zeros(())
    condition = None if batch.condition is None else batch.condition[chosen]
    without = denoiser(
        batch.noisy[chosen], batch.timesteps[chosen], empty.expand(len(chosen), -1), condition
    )
    rng = np.random.default_rng([settings.seed, step, 1])
    scale = torch.from_numpy(rng.uniform(1, guided.highest, len(chosen)).astype(np.float32))
    scale = scale.reshape(-1, 1, 1, 1, 1)
    taken = without + scale * (predicted[chosen] - without)
    error = (taken - batch.target[chosen]) / scale
    return (batch.weights[chosen] * error**2).mean() * len(chosen) / len(batch.timesteps)


def _optimizer(denoiser: Denoiser, settings: DenoiserSettings) -> torch.optim.Optimizer:
    matrices = [p for p in denoiser.parameters() if p.dim() > 1]
    others = [p for p in denoiser.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


def train_denoiser(
    run: RunFolder,
    settings: DenoiserSettings,
    denoiser: Denoiser,
    clips: Clips,
    tokenizer: Any,
    *,
    image_to_video: bool,
    label: str,
) -> None:
    """Train, or go on training; the denoiser has its averaged parameters at the end."""
    table = torch.stack(
        [tokenize(tokenizer, [_canonical(words), *paraphrases(words)]) for words in COMBINATIONS]
    )
    empty = tokenize(tokenizer, [""])
    tokens = torch.cat([table, empty.expand(1, table.shape[1], -1)])
    alphas = alphas_cumprod(NANO.snr_shift_scale).float()
    optimizer = _optimizer(denoiser, settings)
    ema = Ema(denoiser, settings.ema_decay)
    first = 0
    if state := run.load():
        first = state["step"]
        denoiser.load_state_dict(state["denoiser"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
    for step in Steps(label, first, settings.steps):
        rate = warmup_cosine(step, warmup=settings.warmup_steps, steps=settings.steps, floor=0.01)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        batch = draw_batch(settings, clips, tokens, alphas, step, image_to_video=image_to_video)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = denoiser(batch.noisy, batch.timesteps, batch.tokens, batch.condition)
            loss = (batch.weights * (predicted - batch.target) ** 2).mean()
            guided = predicted.new_zeros(())
            if step >= settings.guided.from_step:
                guided = _guided_loss(denoiser, batch, predicted, empty, settings, step)
        optimizer.zero_grad(set_to_none=True)
        (loss + guided).backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), settings.clip_norm)
        optimizer.step()
        ema.update(denoiser)
        if (step + 1) % 20 == 0:
            run.log(step=step + 1, loss=loss.item(), guided=guided.item())
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            run.save(
                {
                    "step": step + 1,
                    "denoiser": denoiser.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "ema": ema.state_dict(),
                }
            )
    ema.copy_to(denoiser)


def prepared_clips(folder: Path, vae: Any, settings: DenoiserSettings, *, i2v: bool) -> Clips:
    """The run's clips, made if they are not there yet."""
    path = folder / "clips.safetensors"
    if not path.is_file():
        clips = make_clips(vae, NANO, settings.clips, settings.seed, independent_start=i2v)
        save_clips(clips, path)
    return load_clips(path)


def save_pipeline(folder: Path, denoiser: Denoiser, vae: Any, tokenizer_folder: Path) -> Path:
    """Save what was trained as a diffusers pipeline; returns its folder."""
    from diffusers import CogVideoXDPMScheduler, CogVideoXImageToVideoPipeline, CogVideoXPipeline
    from transformers import T5Tokenizer

    i2v = denoiser.transformer.config.in_channels > NANO.in_channels
    pipeline = CogVideoXImageToVideoPipeline if i2v else CogVideoXPipeline
    pipeline(
        tokenizer=T5Tokenizer.from_pretrained(tokenizer_folder),
        text_encoder=denoiser.text_encoder,
        vae=vae,
        transformer=denoiser.transformer,
        scheduler=CogVideoXDPMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=NANO.snr_shift_scale,
            timestep_spacing="trailing",
            set_alpha_to_one=True,
        ),
    ).save_pretrained(folder)
    return folder


def train_text_to_video(folder: Path, vae_folder: Path, settings: DenoiserSettings) -> Path:
    """Train nano's denoiser and T5 in `folder`; returns the pipeline's folder.

    Raises:
        UserError: `folder` holds another run.
    """
    from diffusers import AutoencoderKLCogVideoX
    from transformers import T5Tokenizer

    run = RunFolder(folder, dataclasses.asdict(settings) | {"vae": str(vae_folder)})
    vae = AutoencoderKLCogVideoX.from_pretrained(vae_folder).eval()
    clips = prepared_clips(folder, vae, settings, i2v=False)
    tokenizer_folder = folder / "tokenizer"
    tokenizer_folder.mkdir(exist_ok=True)
    pieces = write_tokenizer(tokenizer_folder)
    tokenizer = T5Tokenizer.from_pretrained(tokenizer_folder)
    torch.manual_seed(settings.seed)
    denoiser = Denoiser(new_transformer(), new_text_encoder(NANO, pieces))
    train_denoiser(
        run, settings, denoiser, clips, tokenizer, image_to_video=False, label="Text to video"
    )
    return save_pipeline(folder / "pipeline", denoiser, vae, tokenizer_folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("--vae", type=Path, required=True, help="the trained VAE's folder")
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    options = parser.parse_args()
    settings = read_settings(options.settings, DenoiserSettings)
    print(train_text_to_video(options.folder, options.vae, settings))


if __name__ == "__main__":
    main()
