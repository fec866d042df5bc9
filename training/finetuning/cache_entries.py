"""Where a training's cache keeps what: each entry is named by all that its numbers depend on.

So nothing in the cache is ever out of date: another file, rule, model or dtype is another name.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from predictors.weights_source import ReadyWeights
from training.dataset.clip import Clip
from training.dataset.clip_rules import ClipRules
from training.finetuning.cached_tensors import CachedTensor
from training.finetuning.content_digests import content_digest, digest_of, folders_digest
from training.finetuning.encoders import encoder_dtype
from weights.variants import LATENT_CHANNELS, SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, Dtype

# To be raised whenever an entry is made in another way from the same things.
_FORMAT = 2
# To be raised whenever training.dataset gets other pixels from the same file and rules.
_READING = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntries:
    """The entries of one training. Tensors are kept in the dtype that the weights are stored in."""

    cache: Path
    base: ReadyWeights
    rules: ClipRules
    vae_tiling: bool
    computed: Dtype
    """What the encoders compute in."""
    vae: str
    """The digest of the VAE."""
    text_encoder: str
    """The digest of T5 and tokenizer."""

    def prompt(self, text: str) -> CachedTensor:
        """The embedding of a prompt, `[T, D]`."""
        variant = self.base.variant
        key = digest_of(_FORMAT, text, self.text_encoder, variant.text_tokens, self.computed)
        return CachedTensor(
            path=self._path("prompts", key),
            name="embedding",
            dtype=self._dtype,
            shape=(variant.text_tokens, variant.text_embed_dim),
        )

    def moments(self, clip: Clip) -> CachedTensor:
        """The moments of a clip's latents, `[2C, F, H / 8, W / 8]`.

        Raises:
            OSError: the clip can't be read.
        """
        content, made = content_digest(clip.path), [self.computed, self.vae_tiling]
        key = digest_of(_FORMAT, content, self._reading, clip.frames, self.vae, made)
        return CachedTensor(
            path=self._path("latents", key),
            name="moments",
            dtype=self._dtype,
            shape=(
                2 * LATENT_CHANNELS,
                (clip.frames - 1) // TEMPORAL_COMPRESSION + 1,
                self.rules.height // SPATIAL_COMPRESSION,
                self.rules.width // SPATIAL_COMPRESSION,
            ),
        )

    def image(self, clip: Clip) -> CachedTensor | None:
        """The input image of a clip, `[H, W, 3]` uint8; None for text-to-video.

        Raises:
            OSError: the clip can't be read.
        """
        if not self.rules.first_frames:
            return None
        key = digest_of(_FORMAT, content_digest(clip.image or clip.path), self._reading)
        return CachedTensor(
            path=self._path("images", key),
            name="image",
            dtype=torch.uint8,
            shape=(self.rules.height, self.rules.width, 3),
        )

    @property
    def _reading(self) -> list[int]:
        rules = self.rules
        return [_READING, rules.fps, rules.frames, rules.width, rules.height]

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.base.dtype)
        return dtype

    def _path(self, kind: str, key: str) -> Path:
        return self.cache / kind / f"{key}.safetensors"


def cache_entries(
    base: ReadyWeights,
    rules: ClipRules,
    cache: Path,
    *,
    device: torch.device,
    vae_tiling: bool,
) -> CacheEntries:
    """The entries for training `base` on clips of `rules`, encoded on `device`.

    Raises:
        OSError: the weights can't be read.
    """
    return CacheEntries(
        cache=cache,
        base=base,
        rules=rules,
        vae_tiling=vae_tiling,
        computed=encoder_dtype(base, device),
        vae=folders_digest(base.folder / "vae"),
        text_encoder=folders_digest(base.folder / "text_encoder", base.folder / "tokenizer"),
    )
