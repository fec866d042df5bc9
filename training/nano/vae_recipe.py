"""Trains nano's VAE: pixels to latents of unit variance, and back.

Writes OUT/vae, a diffusers AutoencoderKLCogVideoX. A run that was interrupted goes on from its last
save when the same command comes again.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conversion.number_ranges import COUNT, NOT_NEGATIVE, POSITIVE
from training.devices import device_named, on_cpu
from training.lr_schedules import warmup_cosine
from training.nano.latent_moments import normalise_latents
from training.nano.models import new_vae
from training.nano.scenes import FRAMES, SIZE, masks, random_scene, render
from training.progress import Steps
from training.recipe_command import recipe_parser, run_recipe
from training.run_folder import RunFolder
from training.setting_ranges import SEED, check_ranges, refuse_setting
from training.settings import read_settings
from weights.variants import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION

SETTINGS = Path(__file__).with_name("vae.yaml")
EXAMPLES = """examples:
  python -m training.nano.vae_recipe runs/vae
  python -m training.nano.vae_recipe runs/vae --settings my_vae.yaml --device cuda
"""
_RANGES = {
    "seed": SEED,
    "learning_rate": POSITIVE,
    "warmup_steps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "clip_norm": POSITIVE,
    "shape_weight": NOT_NEGATIVE,
    "kl_weight": NOT_NEGATIVE,
    "moments_weight": NOT_NEGATIVE,
    "decoder_noise": NOT_NEGATIVE,
    "save_every": COUNT,
}
_STAGE_RANGES = {
    "pixels": (SPATIAL_COMPRESSION, SIZE),
    "frames": (1, FRAMES),
    "batch": COUNT,
    "steps": COUNT,
}
# The decoder gives back as many frames as it was encoded from if there is an odd number of latents.
_FRAME_STEP = 2 * TEMPORAL_COMPRESSION


@dataclass(frozen=True, slots=True)
class Stage:
    """`steps` batches of `batch` crops of `frames` frames of `pixels` × `pixels`."""

    pixels: int
    frames: int
    batch: int
    steps: int


@dataclass(frozen=True, slots=True)
class VaeSettings:
    """vae.yaml; the comments there say what each is.

    Raises:
        UserError: a number makes no sense.
    """

    seed: int
    stages: tuple[Stage, ...]
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    shape_weight: float
    kl_weight: float
    moments_weight: float
    decoder_noise: float
    save_every: int

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if not self.stages:
            raise refuse_setting("stages", "empty", "One stage or more is expected.")
        for number, stage in enumerate(self.stages):
            _check_stage(stage, f"stages[{number}].")


def _check_stage(stage: Stage, prefix: str) -> None:
    check_ranges(stage, _STAGE_RANGES, prefix)
    if stage.pixels % SPATIAL_COMPRESSION:
        expected = f"A multiple of {SPATIAL_COMPRESSION} is expected."
        raise refuse_setting(f"{prefix}pixels", stage.pixels, expected)
    if stage.frames % _FRAME_STEP != 1:
        expected = f"A multiple of {_FRAME_STEP} and one more is expected."
        raise refuse_setting(f"{prefix}frames", stage.frames, expected)


def _stage_at(settings: VaeSettings, step: int) -> Stage:
    for stage in settings.stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return settings.stages[-1]


def _crop(rng: np.random.Generator, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """A clip and its mask, cut to the stage's size where the shape is at some moment."""
    scene = random_scene(rng)
    clip, mask = render(scene), masks(scene)
    first = int(rng.integers(len(clip) - stage.frames + 1))
    frames = slice(first, first + stage.frames)
    size = clip.shape[1]
    x, y = scene.path[first + stage.frames // 2]
    limit = size - stage.pixels
    left, top = (
        int(np.clip(round(centre - stage.pixels * rng.uniform(0.2, 0.8)), 0, limit))
        for centre in (x, y)
    )
    rows, columns = slice(top, top + stage.pixels), slice(left, left + stage.pixels)
    return clip[frames, rows, columns], mask[frames, rows, columns]


def batch_at(settings: VaeSettings, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips `[B, 3, F, H, W]` in -1…1 and the weights of their pixels `[B, 1, F, H, W]`, mean 1."""
    rng = np.random.default_rng([settings.seed, step])
    stage = _stage_at(settings, step)
    crops = [_crop(rng, stage) for _ in range(stage.batch)]
    clips = torch.from_numpy(np.stack([clip for clip, _ in crops])).permute(0, 4, 1, 2, 3)
    mask = torch.from_numpy(np.stack([mask for _, mask in crops])).unsqueeze(1)
    near = torch.nn.functional.max_pool3d(
        (mask > 0).float(), (1, 5, 5), stride=1, padding=(0, 2, 2)
    )
    weights = 1 + settings.shape_weight * near
    clips = (clips.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last_3d)
    return clips, weights / weights.mean()


def loss_of(
    vae: Any, clips: torch.Tensor, weights: torch.Tensor, settings: VaeSettings, noise: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a batch, and what the log says of it.

    `noise` is the spread of what is added to the latents before the decoder.
    """
    posterior = vae.encode(clips).latent_dist
    latents = posterior.sample()
    pixels = vae.decode(latents + noise * torch.randn_like(latents)).sample.float()
    error = pixels - clips
    reconstruction = ((error.abs() + error**2) * weights).mean()
    kl = posterior.kl().mean() / latents[0].numel()
    axes = (0, 2, 3, 4)
    mean, spread = posterior.mean.float().mean(axes), posterior.mean.float().std(axes)
    moments = (mean**2).mean() + ((spread - 1) ** 2).mean()
    loss = reconstruction + settings.kl_weight * kl + settings.moments_weight * moments
    psnr = -10 * torch.log10((error**2).mean() / 4)
    return loss, {"loss": loss.item(), "psnr": psnr.item(), "moments": moments.item()}


def _set_memory_format(vae: Any, layout: torch.memory_format) -> None:
    """Lay the weights of the 3D convolutions out; channels last is a third faster on a CPU."""
    for parameter in vae.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def train_vae(folder: Path, settings: VaeSettings, device_name: str = "cpu") -> Path:
    """Train, or go on training, in `folder`; returns the folder of the diffusers VAE.

    Raises:
        UserError: `folder` holds another run, or there is no such device.
    """
    device = device_named(device_name)
    run = RunFolder(folder, dataclasses.asdict(settings))
    steps = sum(stage.steps for stage in settings.stages)
    torch.manual_seed(settings.seed)
    vae = new_vae().to(device)
    _set_memory_format(vae, torch.channels_last_3d)
    optimizer = torch.optim.AdamW(
        vae.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=settings.weight_decay,
    )
    first = 0
    if state := run.load():
        first = state["step"]
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
    for step in Steps("VAE", first, steps):
        torch.manual_seed(settings.seed * 1_000_003 + step)
        rate = warmup_cosine(step, warmup=settings.warmup_steps, steps=steps, floor=0.01)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        clips, weights = batch_at(settings, step)
        if step == steps - settings.stages[-1].steps:
            many = torch.cat([batch_at(settings, steps + n)[0] for n in range(16)])
            normalise_latents(vae, many.to(device))
        last = _stage_at(settings, step) is settings.stages[-1]
        clips, weights = clips.to(device), weights.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss, values = loss_of(vae, clips, weights, settings, settings.decoder_noise * last)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), settings.clip_norm)
        optimizer.step()
        if (step + 1) % 10 == 0:
            run.log(step=step + 1, **values)
        if (step + 1) % settings.save_every == 0 or step + 1 == steps:
            state = {"vae": vae.state_dict(), "optimizer": optimizer.state_dict()}
            run.save({"step": step + 1, **on_cpu(state)})
    _set_memory_format(vae, torch.contiguous_format)
    vae.save_pretrained(folder / "vae")
    return folder / "vae"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = recipe_parser("training.nano.vae_recipe", __doc__, EXAMPLES, SETTINGS)
    options = parser.parse_args(argv)

    def train() -> Path:
        settings = read_settings(options.settings, VaeSettings)
        return train_vae(options.folder, settings, options.device)

    return run_recipe("vae_recipe", options.folder, train)


if __name__ == "__main__":
    sys.exit(main())
