"""Trains nano's text-to-video denoiser and its T5 on clips that the trained VAE encodes.

Writes OUT/pipeline, a diffusers CogVideoXPipeline. A run that was interrupted goes on from its last
save when the same command comes again. Clips are drawn and encoded on the CPU, once.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from conversion.nano_text_encoder import new_text_encoder, write_tokenizer
from training.devices import device_named, on_cpu, random_state, set_random_state
from training.ema import Ema
from training.lr_schedules import warmup_cosine
from training.nano.clips import Clips, load_clips, make_clips, save_clips
from training.nano.denoiser_settings import DenoiserSettings
from training.nano.denoiser_steps import (
    Denoiser,
    canonical,
    draw_batch,
    losses,
    tokenize,
    with_own_predictions,
)
from training.nano.models import NANO, new_transformer
from training.nano.prompts import COMBINATIONS, paraphrases
from training.nano.trained_models import load_vae
from training.noise_schedule import alphas_cumprod
from training.progress import Steps
from training.recipe_command import recipe_parser, run_recipe
from training.run_folder import RunFolder
from training.settings import read_settings

SETTINGS = Path(__file__).with_name("text_to_video.yaml")
EXAMPLES = """examples:
  python -m training.nano.text_to_video_recipe runs/t2v --vae runs/vae/vae
  python -m training.nano.text_to_video_recipe runs/t2v --vae runs/vae/vae --device cuda
"""


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
        [tokenize(tokenizer, [canonical(words), *paraphrases(words)]) for words in COMBINATIONS]
    )
    empty = tokenize(tokenizer, [""])
    tokens = torch.cat([table, empty.expand(1, table.shape[1], -1)])
    alphas = alphas_cumprod(NANO.snr_shift_scale).float()
    on_device = alphas.to(device)
    empty = empty.to(device)
    denoiser.to(device)
    optimizer = _optimizer(denoiser, settings)
    ema = Ema(denoiser, settings.ema_decay)
    first = 0
    if state := run.load():
        first = state["step"]
        denoiser.load_state_dict(state["denoiser"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        # The text encoder's dropout draws from it.
        set_random_state(device, state["random"])
    for step in Steps(label, first, settings.steps):
        rate = warmup_cosine(step, warmup=settings.warmup_steps, steps=settings.steps, floor=0.01)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        batch = draw_batch(settings, clips, tokens, alphas, step, image_to_video=image_to_video)
        batch = batch.on(device)
        if step >= settings.own_predictions.from_step and settings.own_predictions.samples:
            # Of its own: autocast keeps the weights it cast, in older torch without gradients too.
            with torch.autocast(device.type, torch.bfloat16):
                batch = with_own_predictions(denoiser, batch, empty, on_device, settings, step)
        with torch.autocast(device.type, torch.bfloat16):
            loss, guided = losses(denoiser, batch, empty, settings, step)
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
