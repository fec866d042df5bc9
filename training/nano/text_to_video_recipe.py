"""Trains nano's text-to-video denoiser and its T5 on clips that the trained VAE encodes.

Writes OUT/pipeline, a diffusers CogVideoXPipeline. A run that was interrupted goes on from its last
save when the same command comes again. Clips are drawn and encoded on the CPU, once.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conversion.nano_text_encoder import new_text_encoder, write_tokenizer
from training.devices import device_named, on_cpu, random_state, set_random_state
from training.ema import Ema
from training.lr_schedules import warmup_cosine
from training.nano.clips import Clips, load_clips, make_clips, save_clips
from training.nano.models import NANO, new_transformer
from training.nano.prompts import COMBINATIONS, paraphrases
from training.nano.trained_models import load_vae
from training.noise_schedule import TIMESTEPS, alphas_cumprod
from training.progress import Steps
from training.recipe_command import recipe_parser, run_recipe
from training.run_folder import RunFolder
from training.setting_ranges import COUNT, NOT_NEGATIVE, POSITIVE, SEED, SHARE, check_ranges
from training.settings import read_settings
from training.v_prediction import add_noise, velocity

SETTINGS = Path(__file__).with_name("text_to_video.yaml")
EXAMPLES = """examples:
  python -m training.nano.text_to_video_recipe runs/t2v --vae runs/vae/vae
  python -m training.nano.text_to_video_recipe runs/t2v --vae runs/vae/vae --device cuda
"""
_RANGES = {
    "seed": SEED,
    "clips": COUNT,
    "batch": COUNT,
    "steps": COUNT,
    "learning_rate": POSITIVE,
    "warmup_steps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "clip_norm": POSITIVE,
    "ema_decay": SHARE,
    "prompt_dropout": SHARE,
    "shape_weight": NOT_NEGATIVE,
    "opening_steps": NOT_NEGATIVE,
    "focus.share": SHARE,
    "focus.mean": (0, TIMESTEPS),
    "focus.spread": NOT_NEGATIVE,
    "guided.below": (0, TIMESTEPS),
    "guided.highest": COUNT,
    "save_every": COUNT,
}


@dataclass(frozen=True, slots=True)
class Focus:
    """Which timesteps are drawn more often: a `share` of them normally around `mean`."""

    share: float
    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class Guided:
    """For how many samples and up to which guidance the guided prediction is trained."""

    samples: int
    below: int
    highest: float


@dataclass(frozen=True, slots=True)
class DenoiserSettings:
    """text_to_video.yaml and image_to_video.yaml; the comments there say what each is.

    Raises:
        UserError: a number makes no sense.
    """

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
    opening_steps: int
    focus: Focus
    guided: Guided
    save_every: int

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES | {"guided.samples": (0, self.batch)})


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step learns from.

    `noisy` and the velocities `target` are `[B, F, C, H, W]` float32, and so is `condition`: the
    latent of the first frame, then zeros; None for text to video. `weights` `[B, F, 1, H, W]`
    float32 have the mean 1. `timesteps` `[B]` and `tokens` `[B, 16]` are int64. `prompted` `[B]`
    bool is False where the prompt was left out.
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


def _canonical(words: tuple[str, str, str]) -> str:
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
    scales = scales.reshape(-1, 1, 1, 1, 1)
    taken = without + scales * (predicted[:few] - without)
    errors = batch.weights[:few] * ((taken - batch.target[:few]) / scales) ** 2
    fitting = batch.prompted[:few] & (batch.timesteps[:few] < guided.below)
    return plain, (errors.flatten(1).mean(1) * fitting).sum() / count


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
    device: torch.device,
    image_to_video: bool,
    label: str,
) -> None:
    """Train, or go on training; at the end the denoiser has its averaged parameters on the CPU."""
    table = torch.stack(
        [tokenize(tokenizer, [_canonical(words), *paraphrases(words)]) for words in COMBINATIONS]
    )
    empty = tokenize(tokenizer, [""])
    tokens = torch.cat([table, empty.expand(1, table.shape[1], -1)])
    alphas = alphas_cumprod(NANO.snr_shift_scale).float()
    denoiser.to(device)
    optimizer = _optimizer(denoiser, settings)
    ema = Ema(denoiser, settings.ema_decay)
    first = 0
    if state := run.load():
        first = state["step"]
        denoiser.load_state_dict(state["denoiser"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        # The text encoder's dropout draws from it. Runs of before this was saved lack it.
        set_random_state(device, state.get("random", {}))
    for step in Steps(label, first, settings.steps):
        rate = warmup_cosine(step, warmup=settings.warmup_steps, steps=settings.steps, floor=0.01)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        batch = draw_batch(settings, clips, tokens, alphas, step, image_to_video=image_to_video)
        with torch.autocast(device.type, torch.bfloat16):
            loss, guided = losses(denoiser, batch.on(device), empty.to(device), settings, step)
        optimizer.zero_grad(set_to_none=True)
        (loss + guided).backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), settings.clip_norm)
        optimizer.step()
        ema.update(denoiser)
        if (step + 1) % 20 == 0:
            run.log(step=step + 1, loss=loss.item(), guided=guided.item())
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            state = {
                "denoiser": denoiser.state_dict(),
                "optimizer": optimizer.state_dict(),
                "ema": ema.state_dict(),
                "random": random_state(device),
            }
            run.save({"step": step + 1, **on_cpu(state)})
    ema.copy_to(denoiser)
    denoiser.cpu()


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


def train_text_to_video(
    folder: Path, vae_folder: Path, settings: DenoiserSettings, device_name: str = "cpu"
) -> Path:
    """Train nano's denoiser and T5 in `folder`; returns the pipeline's folder.

    Raises:
        UserError: `folder` holds another run, `vae_folder` holds no VAE of nano, or there is no
            such device.
    """
    from transformers import T5Tokenizer

    device = device_named(device_name)
    vae = load_vae(vae_folder)
    run = RunFolder(folder, dataclasses.asdict(settings) | {"vae": str(vae_folder)})
    clips = prepared_clips(folder, vae, settings, i2v=False)
    tokenizer_folder = folder / "tokenizer"
    tokenizer_folder.mkdir(exist_ok=True)
    pieces = write_tokenizer(tokenizer_folder)
    tokenizer = T5Tokenizer.from_pretrained(tokenizer_folder)
    torch.manual_seed(settings.seed)
    denoiser = Denoiser(new_transformer(), new_text_encoder(NANO, pieces))
    train_denoiser(
        run,
        settings,
        denoiser,
        clips,
        tokenizer,
        device=device,
        image_to_video=False,
        label="Text to video",
    )
    return save_pipeline(folder / "pipeline", denoiser, vae, tokenizer_folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = recipe_parser("training.nano.text_to_video_recipe", __doc__, EXAMPLES, SETTINGS)
    parser.add_argument(
        "--vae", type=Path, required=True, metavar="FOLDER", help="what vae_recipe trained"
    )
    options = parser.parse_args(argv)

    def train() -> Path:
        settings = read_settings(options.settings, DenoiserSettings)
        return train_text_to_video(options.folder, options.vae, settings, options.device)

    return run_recipe("text_to_video_recipe", options.folder, train)


if __name__ == "__main__":
    sys.exit(main())
