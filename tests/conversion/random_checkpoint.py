"""A SAT checkpoint with seeded random weights: the real layout, made by the inverse conversion."""

from pathlib import Path

import torch

from conversion import transformer_rules, vae_rules
from conversion.component_configs import transformer_config, vae_config
from conversion.nano_text_encoder import new_text_encoder, write_tokenizer
from conversion.new_folder import new_folder
from conversion.sat_writer import (
    TEXT_ENCODER,
    SatPlan,
    planned_transformer,
    planned_vae,
    write_parts,
)
from weights.variants import Variant


def _random_models(variant: Variant, dtype: torch.dtype) -> SatPlan:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

    architecture = transformer_rules.architecture_of(variant)
    vae_architecture = vae_rules.architecture_of(variant)
    transformer = CogVideoXTransformer3DModel.from_config(transformer_config(variant))
    vae = AutoencoderKLCogVideoX.from_config(vae_config(variant, vae_architecture))
    states = [
        {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
        for model in (transformer, vae)
    ]
    return SatPlan(
        variant=variant,
        files=(
            planned_transformer(
                architecture, states[0], learned_positions=variant.learned_positions
            ),
            planned_vae(vae_architecture, states[1]),
        ),
        text_encoder=None,
    )


def write_nano_text_encoder(folder: Path, variant: Variant, dtype: torch.dtype) -> None:
    """Write a one-layer T5 encoder with random weights and its tokenizer.

    The layout is that of `t5-v1_1-xxl` beside SAT's checkpoints: config, safetensors and
    `spiece.model` in one folder.
    """
    from transformers.utils.logging import disable_progress_bar

    folder.mkdir()
    encoder = new_text_encoder(variant, write_tokenizer(folder))
    disable_progress_bar()
    encoder.to(dtype).save_pretrained(folder)
    # transformers writes it for the owner alone.
    (folder / "model.safetensors").chmod(0o644)


def write_random_checkpoint(variant: Variant, destination: Path, *, seed: int = 0) -> None:
    """Write a SAT directory for `variant`: transformer, VAE, `model.yaml` and a small T5.

    The same seed gives the same weights. The folder appears under its name when it is complete.

    Raises:
        UserError: `destination` is taken.
    """
    dtype = getattr(torch, variant.dtype)
    with new_folder(destination) as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_parts(_random_models(variant, dtype), folder)
        write_nano_text_encoder(folder / TEXT_ENCODER, variant, dtype)
