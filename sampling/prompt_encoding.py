"""All prompts through the T5 first, in batches, into a scratch folder; then the T5 is freed.

The T5 is 9.5 GB of the released models: with it gone, sampling has that memory for itself. Texts
are batched over the whole prompt file, whatever of it is done already, so that an embedding's bytes
are the same however often a run was interrupted and whoever encodes it.
"""

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from predictors.memory_estimate import ITEM_BYTES
from sampling.clip_job import ClipJob, WorkUnit
from weights.disk_space import check_space
from weights.variants import Variant

if TYPE_CHECKING:
    import torch

    from predictors.pipeline import LoadedPipeline, PipelineSettings
    from predictors.weights_source import ReadyWeights

# Embeddings of a batch of the released models have 30 MB.
BATCH = 16
_TENSOR = "embeds"


@dataclass(frozen=True, slots=True)
class UnitEmbeddings:
    """What the T5 made of a unit's prompts: `[jobs, text_tokens, text_embed_dim]` each, in the
    T5's dtype, on the CPU; may be pickled. `negative_prompt_embeds` is None without guidance.
    """

    prompt_embeds: "torch.Tensor"
    negative_prompt_embeds: "torch.Tensor | None"

    def only(self, index: int) -> "UnitEmbeddings":
        """Those of one job."""
        negative = self.negative_prompt_embeds
        one = slice(index, index + 1)
        return UnitEmbeddings(self.prompt_embeds[one], None if negative is None else negative[one])

    def on(self, device: "torch.device") -> "tuple[torch.Tensor, torch.Tensor | None]":
        """Both of them, on `device`."""
        negative = self.negative_prompt_embeds
        return self.prompt_embeds.to(device), None if negative is None else negative.to(device)


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """Where the embeddings of texts are: by text a file and its row. They stay on the disk."""

    places: Mapping[str, tuple[Path, int]]

    def of(self, unit: WorkUnit) -> UnitEmbeddings:
        """The embeddings that `unit` is sampled with.

        SAT has zeros where diffusers has the embeddings of the negative prompt.
        """
        import torch

        prompts = torch.cat([self._read(job.request.prompt) for job in unit.jobs])
        if not _has_guidance(unit.jobs[0]):
            return UnitEmbeddings(prompts, None)
        if unit.jobs[0].sat_sampler:
            return UnitEmbeddings(prompts, torch.zeros_like(prompts))
        negative = torch.cat([self._read(job.request.negative_prompt) for job in unit.jobs])
        return UnitEmbeddings(prompts, negative)

    def _read(self, text: str) -> "torch.Tensor":
        from safetensors import safe_open

        path, row = self.places[text]
        with safe_open(path, "pt") as file:
            return file.get_slice(_TENSOR)[row : row + 1]


def text_batches(jobs: Iterable[ClipJob]) -> list[tuple[str, ...]]:
    """The distinct texts that `jobs` need, as they come, in batches."""
    texts = list(dict.fromkeys(text for job in jobs for text in _texts(job)))
    return [tuple(texts[begin : begin + BATCH]) for begin in range(0, len(texts), BATCH)]


def needed_batches(
    batches: Iterable[tuple[str, ...]], units: Iterable[WorkUnit]
) -> list[tuple[str, ...]]:
    """Those with a text that `units` need; a batch is always encoded whole."""
    needed = {text for unit in units for job in unit.jobs for text in _texts(job)}
    return [batch for batch in batches if not needed.isdisjoint(batch)]


def encode_prompts(
    weights: "ReadyWeights",
    settings: "PipelineSettings",
    batches: Sequence[tuple[str, ...]],
    folder: Path,
    *,
    advance: Callable[[int], object],
    tell_dropped: Callable[[str, str], object],
) -> EncodedPrompts:
    """Encode `batches` into files in `folder`, with nothing but the text encoder loaded.

    Args:
        folder: an empty one.
        advance: called with the number of texts that were encoded.
        tell_dropped: called with each text that is too long, and its end that the model won't see.

    Raises:
        UserError: the weights are damaged.
        OperationError: the disk of `folder` has too little room.
    """
    from predictors.pipeline import load_text_encoder

    texts = sum(map(len, batches))
    check_space(folder, texts * _text_bytes(weights.variant))
    places: dict[str, tuple[Path, int]] = {}
    if not batches:
        return EncodedPrompts(places)
    loaded = load_text_encoder(weights, settings, prompts=BATCH)
    try:
        for number, batch in enumerate(batches):
            path = folder / f"prompts-{number:06}.safetensors"
            _encode(loaded, batch, path, tell_dropped)
            places |= {text: (path, row) for row, text in enumerate(batch)}
            advance(len(batch))
    finally:
        _free(loaded)
    return EncodedPrompts(places)


def _encode(
    loaded: "LoadedPipeline",
    batch: tuple[str, ...],
    path: Path,
    tell_dropped: Callable[[str, str], object],
) -> None:
    from safetensors.torch import save_file

    from predictors.prompt_embeddings import dropped_text, encode_texts

    for text in batch:
        dropped = dropped_text(loaded.pipe.tokenizer, text, loaded.variant.text_tokens)
        if dropped:
            tell_dropped(text, dropped)
    try:
        embeds = encode_texts(loaded.pipe, batch, loaded.variant.text_tokens)
    finally:
        loaded.pipe.maybe_free_model_hooks()
    save_file({_TENSOR: embeds.cpu().contiguous()}, path)


def _free(loaded: "LoadedPipeline") -> None:
    """Give the text encoder's memory back: before the next is loaded, and not some time later."""
    import torch

    loaded.pipe.remove_all_hooks()
    loaded.pipe.text_encoder = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _texts(job: ClipJob) -> tuple[str, ...]:
    if job.sat_sampler or not _has_guidance(job):
        return (job.request.prompt,)
    return job.request.prompt, job.request.negative_prompt


def _has_guidance(job: ClipJob) -> bool:
    return job.request.guidance_scale > 1


def _text_bytes(variant: Variant) -> int:
    # The most that a text takes: a CPU computes in float32.
    return variant.text_tokens * variant.text_embed_dim * ITEM_BYTES["float32"]
