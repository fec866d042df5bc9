"""What a dataset has to be for a model follows from its variant and its tokenizer."""

import pytest

from predictors.weights_source import resolve_weights
from training.finetuning.dataset_rules import clip_rules, token_counter
from weights.variants import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_clips_become_what_the_variant_makes_by_default(name):
    variant = VARIANTS[name]
    rules = clip_rules(variant, images=False)
    assert rules.frames in variant.legal_frames
    assert (rules.width, rules.height) in variant.legal_sizes
    assert rules.fps == variant.fps
    assert rules.first_frames is name.endswith("-i2v")
    assert not rules.images


def test_tokens_are_counted_as_the_model_reads_them(tiny_folder):
    count = token_counter(resolve_weights(str(tiny_folder), "t2v"))
    # The tiny tokenizer has a token for each letter, one for the space before a word, and the end.
    assert count("red") == 5
    assert count("a " * 100) == 201
