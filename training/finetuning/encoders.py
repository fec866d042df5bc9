"""The T5 and the VAE of a weights folder, as the served pipeline runs them.

diffusers' VAE takes 9 frames of a clip and then 8 at a time, and carries its convolutions' context
on; the statistics of its group norms are those of one such part. SAT takes a clip in one pass,
which gives somewhat other latents and needs memory for all of it: one feature map of 49 frames of
720×480 in bfloat16 is 4.3 GB, and several are held at once.

Tiles need less memory still. Their statistics are those of a tile and their seams are blended, so
they are for GPUs that can't hold 9 whole frames: one feature map is 0.8 GB at 720×480, and 2.4 GB
at 1360×768.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from predictors.memory import compute_dtype
from predictors.prompt_embeddings import PromptEmbeddings
from predictors.weights_source import ReadyWeights
from training.finetuning.image_condition import encode_moments
from weights.variants import Dtype


def encoder_dtype(base: ReadyWeights, device: torch.device) -> Dtype:
    """What both encoders compute in: as the served pipeline does on that device."""
    return compute_dtype(base.dtype, device.type)


def load_text_encoder(base: ReadyWeights, device: torch.device) -> Callable[[str], torch.Tensor]:
    """Load T5 and tokenizer; the function returned embeds a prompt as `[T, D]`, on the device.

    It gives, to the bit, what the served pipeline gives its transformer.
    """
    import diffusers

    # The text-to-video pipeline encodes prompts as the other does, and loads from its folder too.
    pipe = diffusers.CogVideoXPipeline.from_pretrained(
        base.folder,
        vae=None,
        transformer=None,
        scheduler=None,
        dtype=getattr(torch, encoder_dtype(base, device)),
        local_files_only=True,
    ).to(device)
    # The cache on disk is enough.
    embeddings = PromptEmbeddings(pipe, base.variant.text_tokens, limit_bytes=0)
    return lambda prompt: embeddings.encode(prompt, "", guidance=False).prompt_embeds[0]


def load_vae(base: ReadyWeights, device: torch.device) -> Any:
    """Load the VAE for encoding; its weights are frozen."""
    import diffusers

    vae = diffusers.AutoencoderKLCogVideoX.from_pretrained(
        base.folder / "vae",
        dtype=getattr(torch, encoder_dtype(base, device)),
        local_files_only=True,
    )
    return vae.to(device).requires_grad_(False)


def encode_frames(vae: Any, frames: np.ndarray) -> torch.Tensor:
    """The moments `[2C, F, H / 8, W / 8]`, float32, of frames `[F, H, W, 3]` uint8.

    `vae` is a diffusers AutoencoderKLCogVideoX.
    """
    return encode_moments(vae, as_pixels(torch.from_numpy(frames)).movedim(-1, 0))


def as_pixels(values: torch.Tensor) -> torch.Tensor:
    """Bytes as what models take: float32 in −1…1."""
    return values.float() / 127.5 - 1
