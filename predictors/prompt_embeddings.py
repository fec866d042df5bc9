"""What the T5 makes of prompts, kept: a text that comes again never runs it a second time.

The T5 is 9.5 GB of the released models; under offload, running it means moving it first.
"""

import logging
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# 1.8 MB a text with the released models, so that some 70 fit.
LIMIT_BYTES = 128 << 20

# What the libraries log about prompts that are too long: in part only, into a log that may have to
# be free of prompts. `dropped_text` takes their place.
_TOKENIZER_LOG = "transformers.tokenization_utils_base"
_ABOUT_LENGTH = (
    "part of your input was truncated",
    "longer than the specified maximum sequence length",
)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Inputs for the pipeline, each `[1, text_tokens, text_embed_dim]` in the T5's dtype, on the
    device that the pipeline runs on. They may be shared with the cache: not to be written to.

    `negative_prompt_embeds` is None without guidance. `hits` counts those that were kept before.
    """

    prompt_embeds: "torch.Tensor"
    negative_prompt_embeds: "torch.Tensor | None"
    hits: int


class PromptEmbeddings:
    """The embeddings of the texts used last, at most `limit_bytes` of them, on the CPU."""

    def __init__(self, pipe: Any, text_tokens: int, limit_bytes: int = LIMIT_BYTES) -> None:
        self._pipe = pipe
        self._text_tokens = text_tokens
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        _keep_prompts_out_of_logs(pipe)

    def encode(self, prompt: str, negative_prompt: str, guidance: bool) -> Embeddings:
        """The embeddings that the pipeline itself would make of these texts, to the bit.

        It, too, encodes the two one after the other. Without guidance the negative prompt plays no
        part and is not encoded.
        """
        texts = [prompt, negative_prompt] if guidance else [prompt]
        hits = 0
        found = []
        for text in texts:
            hits += text in self._kept
            found.append(self._embeds(text).to(self._pipe._execution_device))
        return Embeddings(found[0], found[1] if guidance else None, hits)

    def _embeds(self, text: str) -> "torch.Tensor":
        if text in self._kept:
            self._kept.move_to_end(text)
            return self._kept[text]
        embeds = _encoded(self._pipe, text, self._text_tokens)
        self._keep(text, embeds.to("cpu"))
        return embeds

    def _keep(self, text: str, embeds: "torch.Tensor") -> None:
        # A cancelled request may be interrupted between any two of these steps: room is made first,
        # and sizes are added up anew, since a running sum could be wrong from then on.
        room = self._limit_bytes - _bytes(text, embeds)
        if room < 0:
            return
        while sum(map(_bytes, self._kept, self._kept.values())) > room:
            self._kept.popitem(last=False)
        self._kept[text] = embeds


def encode_texts(pipe: Any, texts: Sequence[str], text_tokens: int) -> "torch.Tensor":
    """The embeddings of `texts` as one batch, `[texts, text_tokens, text_embed_dim]` in the T5's
    dtype, on the device that the pipeline runs on.

    In the last digits they depend on which texts are in the batch.
    """
    _keep_prompts_out_of_logs(pipe)
    return _encoded(pipe, list(texts), text_tokens)


def dropped_text(tokenizer: Any, prompt: str, text_tokens: int) -> str:
    """The end of `prompt` that the model does not get to see, in the user's own characters.

    Empty when `text_tokens` suffice for all of it. The last of them is always the end token </s>.
    A character whose pieces fall on both sides of the cut counts as not seen.

    Args:
        tokenizer: a T5Tokenizer of transformers 5.
    """
    spans = tokenizer(prompt, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    if len(spans) <= text_tokens:
        return ""
    start, _ = spans[text_tokens - 1]
    return prompt[start:]


def _encoded(pipe: Any, text: str | list[str], text_tokens: int) -> "torch.Tensor":
    import torch

    # Only the pipeline's own call turns gradients off.
    with torch.no_grad():
        embeds, _ = pipe.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=text_tokens
        )
    return embeds


def _keep_prompts_out_of_logs(pipe: Any) -> None:
    for name in (type(pipe).__module__, _TOKENIZER_LOG):
        logging.getLogger(name).addFilter(_is_not_about_length)


def _bytes(text: str, embeds: "torch.Tensor") -> int:
    return sys.getsizeof(text) + int(embeds.nbytes)


def _is_not_about_length(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(part in message for part in _ABOUT_LENGTH)
