"""The T5 and tokenizer of nano: a closed vocabulary of words, letters for everything else."""

import string
from pathlib import Path
from typing import Any

from weights.variants import Variant

# All words of nano's prompts, and those that its training leaves for a fine-tuning.
WORDS = (
    *("a", "an", "the", "on", "in", "of", "to", "and", "is", "it", "that", "there", "with"),
    *("across", "over", "towards", "one", "two", "three", "video", "clip", "screen"),
    *("red", "green", "blue", "yellow", "magenta", "cyan", "white", "orange", "pink", "purple"),
    *("dark", "background", "circle", "square", "triangle", "shape", "star", "hexagon", "ring"),
    *("moving", "moves", "goes", "going", "left", "right", "up", "down", "side", "top", "bottom"),
    *("zigzag", "diagonal", "circling", "bouncing", "spinning", "wave", "growing", "shrinking"),
    *("blinking", "fading", "turning", "still", "fast", "slow", "big", "small"),
)
_SPECIAL = ("<pad>", "</s>", "<unk>")
# SentencePiece marks the start of a word with this character.
_SPACE = "▁"


def _pieces() -> list[tuple[str, float]]:
    """Pieces with their log probabilities: a word beats its letters."""
    words = [(_SPACE + word, -1.0) for word in WORDS]
    letters = string.ascii_letters + string.digits + string.punctuation
    return [*words, (_SPACE, -8.0), *((letter, -10.0) for letter in letters)]


def write_tokenizer(folder: Path) -> int:
    """Write `spiece.model`, the one tokenizer file SAT's layout has; returns the vocabulary size.

    The ids of the special tokens are T5's: padding 0, end 1, unknown 2.
    """
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()
    spec = model.trainer_spec
    spec.model_type = proto.TrainerSpec.UNIGRAM
    spec.pad_id, spec.eos_id, spec.unk_id, spec.bos_id = 0, 1, 2, -1
    model.normalizer_spec.name = "identity"
    types = proto.ModelProto.SentencePiece
    for piece, kind in zip(_SPECIAL, (types.CONTROL, types.CONTROL, types.UNKNOWN), strict=True):
        model.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in _pieces():
        model.pieces.add(piece=piece, score=score, type=types.NORMAL)
    spec.vocab_size = len(model.pieces)
    (folder / "spiece.model").write_bytes(model.SerializeToString(deterministic=True))
    return len(model.pieces)


def new_text_encoder(variant: Variant, pieces: int) -> Any:
    """A one-layer T5 encoder with random weights, for a tokenizer of `pieces` pieces.

    Weights come from torch's global generator, which the caller seeds.
    """
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            # T5 numbers the sentinels after the vocabulary; the tokenizer adds 100 by default.
            vocab_size=pieces + 100,
            d_model=variant.text_embed_dim,
            d_kv=32,
            d_ff=2 * variant.text_embed_dim,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )
