"""Clips as the VAE and the T5 encode them, each once: what training reads at every step.

They are kept in a cache, a folder with `latents/`, `prompts/` and, for image-to-video, `images/`.
The name of an entry is a digest of all that it depends on, so that a run on other clips, of another
size or with another model adds entries and never meets one that is out of date. Several runs may
share a cache. Entries that nobody needs any more are not found out: remove the folder to be rid of
them, and what the next run needs will be made again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from predictors.weights_source import ReadyWeights
from training.dataset.clip import Clip
from training.dataset.clip_rules import ClipRules
from training.finetuning.cache_entries import CacheEntries, cache_entries
from training.finetuning.cache_filling import (
    encode_prompts,
    encode_videos,
    keep_images,
    missing_entries,
    share_of,
)
from training.finetuning.cached_tensors import CachedTensor
from training.finetuning.encoders import as_pixels
from training.finetuning.kept_tensors import KeptTensors
from training.finetuning.objective import Sample
from training.progress import Steps
from weights.disk_space import check_space


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedClip:
    """Where the pixels of a clip are kept, encoded."""

    clip: Clip
    moments: CachedTensor
    image: CachedTensor | None


@dataclass(frozen=True, slots=True, eq=False)
class EncodedClips:
    """The clips of a training, read from the cache when they are asked for first.

    Reading raises OperationError where an entry was damaged since `encode_clips`; it is removed, so
    that it is made anew when that is called again.
    """

    clips: tuple[EncodedClip, ...]
    prompts: Mapping[str, CachedTensor]
    kept: KeptTensors = field(default_factory=KeptTensors)

    def __len__(self) -> int:
        return len(self.clips)

    def frames(self, number: int) -> int:
        """How many frames clip `number` has, in pixels."""
        return self.clips[number].clip.frames

    def sample(self, number: int) -> Sample:
        """Clip `number` for the objective; its tensors may be shared with other samples."""
        clip = self.clips[number]
        return Sample(
            moments=self.kept.read(clip.moments).float(),
            prompt=self.prompt(clip.clip.prompt),
            image=as_pixels(self.kept.read(clip.image)).movedim(-1, 0) if clip.image else None,
        )

    def prompt(self, text: str) -> torch.Tensor:
        """The embedding `[T, D]`, float32 on the CPU, of a text that was to be encoded."""
        return self.kept.read(self.prompts[text]).float()

    @property
    def empty_prompt(self) -> torch.Tensor:
        """The embedding of "" `[T, D]`, float32 on the CPU."""
        return self.prompt("")


def encode_clips(
    base: ReadyWeights,
    clips: Sequence[Clip],
    rules: ClipRules,
    cache: Path,
    *,
    device: torch.device,
    more_prompts: Sequence[str] = (),
    vae_tiling: bool = False,
    process: tuple[int, int] = (0, 1),
    barrier: Callable[[], None] = lambda: None,
) -> EncodedClips:
    """Encode what the cache has not yet; T5 and VAE are loaded only where something is missing.

    The processes that have the same cache share the work. Each must call this with the same
    arguments but its own `process`, and with a `barrier` that waits until all have come to it; they
    come as far apart as their shares take, so it must have no short time limit.

    Args:
        more_prompts: are encoded besides the captions and "".
        vae_tiling: the VAE takes clips in tiles, for less memory: see training.finetuning.encoders.
        process: the number of this process, from 0, and how many there are.

    Raises:
        UserError: a clip can't be read any more.
        OperationError: the disk has too little space, or what a model computes is not finite.
        OSError: a file can't be read or written.
    """
    entries = cache_entries(base, rules, cache, device=device, vae_tiling=vae_tiling)
    encoded = _planned(entries, clips, more_prompts)
    prompts = missing_entries({entry: text for text, entry in encoded.prompts.items()})
    videos = missing_entries({each.moments: each.clip for each in encoded.clips})
    images = missing_entries({each.image: each.clip for each in encoded.clips if each.image})
    check_space(cache, sum(entry.size for entry in (*prompts, *videos, *images)))
    # Whoever began to write before the others have looked would change what is missing for them.
    barrier()
    encode_prompts(base, share_of(prompts, *process), device)
    encode_videos(base, share_of(videos, *process), rules, device, vae_tiling=vae_tiling)
    keep_images(share_of(images, *process), rules)
    barrier()
    return encoded


def _planned(
    entries: CacheEntries, clips: Sequence[Clip], more_prompts: Sequence[str]
) -> EncodedClips:
    """Where everything is to be, whether it is there or not. Reads all clips for their digests."""
    texts = ["", *more_prompts, *(clip.prompt for clip in clips)]
    return EncodedClips(
        clips=tuple(
            EncodedClip(
                clip=clips[number],
                moments=entries.moments(clips[number]),
                image=entries.image(clips[number]),
            )
            for number in Steps("Reading clips", 0, len(clips))
        ),
        prompts={text: entries.prompt(text) for text in texts},
    )
