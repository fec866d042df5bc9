"""One forward of a converted transformer and VAE at tiny input size: do the numbers stay finite?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from conversion.diffusers_folder import open_folder
from weights.variants import HEAD_DIM, SPATIAL_COMPRESSION

# Weights in float32, and as much again for what the forward needs, is a safe bet at tiny sizes.
_BYTES_PER_PARAMETER = 5


@dataclass(frozen=True, slots=True)
class Trial:
    """What a forward gave: `None` where it did not run, and why."""

    model: str
    finite: bool | None
    note: str


def _available_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _transformer_inputs(config: Any) -> dict[str, Any]:
    """Inputs of one latent frame (two where patches span two), 4×4 latents where that is allowed.

    A learned position table fixes the height and width.
    """
    learned = config.use_learned_positional_embeddings
    frames = config.patch_size_t or 1
    height, width = (config.sample_height, config.sample_width) if learned else (4, 4)
    tokens = (height // config.patch_size) * (width // config.patch_size)
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(1, frames, config.in_channels, height, width),
        "encoder_hidden_states": torch.randn(1, config.max_text_seq_length, config.text_embed_dim),
        "timestep": torch.tensor([500]),
    }
    if config.use_rotary_positional_embeddings:
        # No rotation: positions do not matter here.
        inputs["image_rotary_emb"] = (torch.ones(tokens, HEAD_DIM), torch.zeros(tokens, HEAD_DIM))
    if config.ofs_embed_dim is not None:
        inputs["ofs"] = torch.tensor([2.0])
    return inputs


def _run_transformer(folder: Path) -> bool:
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel.from_pretrained(folder, dtype=torch.float32).eval()
    return bool(model(**_transformer_inputs(model.config)).sample.isfinite().all())


def _run_vae(folder: Path) -> bool:
    from diffusers import AutoencoderKLCogVideoX

    model = AutoencoderKLCogVideoX.from_pretrained(folder, dtype=torch.float32).eval()
    size = 4 * SPATIAL_COMPRESSION
    moments = model.encode(torch.rand(1, 3, 1, size, size) * 2 - 1).latent_dist.parameters
    frames = model.decode(moments[:, : model.config.latent_channels]).sample
    return bool(moments.isfinite().all() and frames.isfinite().all())


def try_forward(folder: Path) -> tuple[Trial, ...]:
    """Run transformer and VAE of a weights folder once, where there is memory for it.

    Raises:
        UserError: `folder` is no weights folder of a variant we know.
    """
    opened = open_folder(folder)
    trials = []
    for name, tensors, run in (
        ("transformer", opened.transformer, _run_transformer),
        ("vae", opened.vae, _run_vae),
    ):
        needed = _BYTES_PER_PARAMETER * sum(tensor.numel() for tensor in tensors.values())
        if needed > _available_bytes():
            trials.append(Trial(name, None, f"not run: it needs {needed / 1e9:.0f} GB of memory"))
            continue
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            finite = run(folder / name)
        trials.append(Trial(name, finite, "finite" if finite else "NaN or infinite values"))
    return tuple(trials)
