"""Trains nano's image-to-video denoiser, from the text-to-video pipeline.

    python -m training.nano.image_to_video_recipe OUT --text-to-video T2V_RUN/pipeline

The latent of the first frame stands beside the noise, zeros beside the frames after it. Starts are
drawn independently of the direction, so that the image gives nothing of it away.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

from training.nano.models import NANO_I2V, new_transformer
from training.nano.text_to_video_recipe import (
    Denoiser,
    DenoiserSettings,
    prepared_clips,
    save_pipeline,
    train_denoiser,
)
from training.run_folder import RunFolder
from training.settings import read_settings

SETTINGS = Path(__file__).with_name("image_to_video.yaml")


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


def train_image_to_video(folder: Path, source: Path, settings: DenoiserSettings) -> Path:
    """Train nano-i2v in `folder` from the text-to-video pipeline `source`; returns its folder.

    Raises:
        UserError: `folder` holds another run.
    """
    from diffusers import CogVideoXPipeline

    run = RunFolder(folder, dataclasses.asdict(settings) | {"text_to_video": str(source)})
    pipe = CogVideoXPipeline.from_pretrained(source, dtype=torch.float32, local_files_only=True)
    clips = prepared_clips(folder, pipe.vae.eval(), settings, i2v=True)
    denoiser = Denoiser(widened(pipe.transformer), pipe.text_encoder)
    denoiser.requires_grad_(True)
    train_denoiser(
        run, settings, denoiser, clips, pipe.tokenizer, image_to_video=True, label="Image to video"
    )
    return save_pipeline(folder / "pipeline", denoiser, pipe.vae, source / "tokenizer")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("--text-to-video", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    options = parser.parse_args()
    settings = read_settings(options.settings, DenoiserSettings)
    print(train_image_to_video(options.folder, options.text_to_video, settings))


if __name__ == "__main__":
    main()
