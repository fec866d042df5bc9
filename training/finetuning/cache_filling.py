"""Makes entries of the cache: embeddings of prompts, moments of clips, input images."""

import gc
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TypeVar

import torch

from predictors.weights_source import ReadyWeights
from training.dataset.clip import Clip
from training.dataset.clip_frames import read_clip, read_image
from training.dataset.clip_rules import ClipRules
from training.finetuning.cached_tensors import CachedTensor
from training.finetuning.encoders import encode_frames, load_text_encoder, load_vae
from training.progress import Steps
from weights.errors import OperationError

_Source = TypeVar("_Source")


def missing_entries(wanted: Mapping[CachedTensor, _Source]) -> dict[CachedTensor, _Source]:
    """Those that are not there or not whole, in the same order."""
    return {entry: source for entry, source in wanted.items() if not entry.is_whole()}


def share_of(
    entries: Mapping[CachedTensor, _Source], index: int, count: int
) -> dict[CachedTensor, _Source]:
    """What process `index` of `count` makes: all shares together are all entries."""
    return dict(islice(entries.items(), index, None, count))


def encode_prompts(
    base: ReadyWeights, prompts: Mapping[CachedTensor, str], device: torch.device
) -> None:
    """Make the embeddings of prompts; the T5 is gone from memory when this returns.

    Raises:
        OperationError: what it computes is not finite.
        OSError: a file can't be read or written.
    """
    if not prompts:
        return
    embed = load_text_encoder(base, device)
    for entry, prompt in _shown("Encoding prompts", prompts):
        _write(entry, embed(prompt), f"The T5's embedding of the prompt {prompt!r} is")
    del embed
    _give_memory_back(device)


def encode_videos(
    base: ReadyWeights,
    videos: Mapping[CachedTensor, Clip],
    rules: ClipRules,
    device: torch.device,
    *,
    vae_tiling: bool,
) -> None:
    """Make the moments of clips; the VAE is gone from memory when this returns.

    Raises:
        UserError: a clip can't be read any more.
        OperationError: what the VAE computes is not finite.
        OSError: a file can't be read or written.
    """
    if not videos:
        return
    vae = load_vae(base, device)
    if vae_tiling:
        vae.enable_tiling()
    for entry, clip in _shown("Encoding clips", videos):
        moments = encode_frames(vae, read_clip(clip, rules))
        _write(entry, moments, f"The VAE's latents of {clip.path} are")
    del vae
    _give_memory_back(device)


def keep_images(images: Mapping[CachedTensor, Clip], rules: ClipRules) -> None:
    """Make the input images.

    Raises:
        UserError: a clip or an image can't be read any more.
        OSError: a file can't be written.
    """
    for entry, clip in _shown("Reading input images", images):
        entry.write(torch.from_numpy(read_image(clip, rules)))


def _shown(
    label: str, entries: Mapping[CachedTensor, _Source]
) -> Iterator[tuple[CachedTensor, _Source]]:
    pairs = list(entries.items())
    if pairs:
        for number in Steps(label, 0, len(pairs)):
            yield pairs[number]


def _write(entry: CachedTensor, tensor: torch.Tensor, what: str) -> None:
    """Store in the entry's dtype; `what` begins the sentence about a tensor that is not finite."""
    kept = tensor.to(entry.dtype)
    if not torch.isfinite(kept).all():
        raise OperationError(
            f"{what} not finite, computed as {_name(tensor)} and kept as {_name(kept)}.",
            "A model that works gives finite numbers.",
            "The usual cause is weights that run in another dtype than they were trained in: "
            "see `cogvideox variants`, and convert the weights to that one.",
        )
    entry.write(kept)


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _give_memory_back(device: torch.device) -> None:
    # Models of these libraries hold references to themselves.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
