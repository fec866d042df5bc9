"""Trains nano's image-to-video denoiser, from the text-to-video pipeline.

The latent of the first frame stands beside the noise, zeros beside the frames after it. Starts are
drawn independently of the direction, so that the image gives nothing of it away.

Writes OUT/pipeline, a diffusers CogVideoXImageToVideoPipeline. A run that was interrupted goes on
from its last save when the same command comes again. Clips are drawn and encoded on the CPU, once.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.devices import device_named
from training.nano.denoiser_settings import DenoiserSettings
from training.nano.denoiser_steps import Denoiser
from training.nano.models import NANO_I2V, new_transformer
from training.nano.text_to_video_recipe import prepared_clips, save_pipeline, train_denoiser
from training.nano.trained_models import load_text_to_video
from training.recipe_command import recipe_parser, run_recipe
from training.run_folder import RunFolder
from training.settings import read_settings

SETTINGS = Path(__file__).with_name("image_to_video.yaml")
EXAMPLES = """examples:
  python -m training.nano.image_to_video_recipe runs/i2v --text-to-video runs/t2v/pipeline
  python -m training.nano.image_to_video_recipe runs/i2v --text-to-video runs/t2v/pipeline \\
      --settings my_image_to_video.yaml --device cuda
"""


def widened(transformer: Any) -> Any:
    """The same transformer with the channels of the image beside the noise, which it ignores yet.

    The new weights of the patch embedding are zero.
    """
    wide = new_transformer(NANO_I2V)
    state = transformer.state_dict()
    name = "patch_embed.proj.weight"
    channels = state[name].shape[1]
    weight = torch.zeros_like(wide.state_dict()[name])
    weight[:, :channels] = state[name]
    wide.load_state_dict(state | {name: weight})
    return wide


def train_image_to_video(
    folder: Path, source: Path, settings: DenoiserSettings, device_name: str = "cpu"
) -> Path:
    """Train nano-i2v in `folder` from the text-to-video pipeline `source`; returns its folder.

    Raises:
        UserError: `folder` holds another run, `source` holds no text-to-video pipeline of nano, or
            there is no such device.
    """
    device = device_named(device_name)
    parts = load_text_to_video(source)
    run = RunFolder(folder, dataclasses.asdict(settings) | {"text_to_video": str(source)})
    clips = prepared_clips(folder, parts.vae, settings, i2v=True)
    denoiser = Denoiser(widened(parts.transformer), parts.text_encoder)
    denoiser.requires_grad_(True)
    train_denoiser(
        run,
        settings,
        denoiser,
        clips,
        parts.tokenizer,
        device=device,
        image_to_video=True,
        label="Image to video",
    )
    return save_pipeline(folder / "pipeline", denoiser, parts.vae, source / "tokenizer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = recipe_parser("training.nano.image_to_video_recipe", __doc__, EXAMPLES, SETTINGS)
    parser.add_argument(
        "--text-to-video",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="what text_to_video_recipe trained",
    )
    options = parser.parse_args(argv)

    def train() -> Path:
        settings = read_settings(options.settings, DenoiserSettings)
        return train_image_to_video(options.folder, options.text_to_video, settings, options.device)

    return run_recipe("image_to_video_recipe", options.folder, train)


if __name__ == "__main__":
    sys.exit(main())
