"""Prompts say what a scene shows, in a closed vocabulary, and hold some combinations out."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from transformers import T5Tokenizer

from conversion import nano_text_encoder
from training.nano.prompts import (
    COMBINATIONS,
    HELD_OUT,
    RESERVED,
    WORDS,
    combination_of,
    paraphrase,
    paraphrases,
    parse_prompt,
    prompt_of,
    training_scene,
)
from training.nano.scenes import COLOURS, DIRECTIONS, SHAPES, random_scene
from weights.variants import VARIANTS


def trained(count, **options):
    rng = np.random.default_rng(0)
    return [training_scene(rng, **options) for _ in range(count)]


def test_the_canonical_prompt():
    scene = random_scene(np.random.default_rng(0), colour="red", shape="circle", direction="left")
    assert prompt_of(scene) == "a red circle moving left"


def test_a_prompt_and_each_paraphrase_say_the_same():
    for combination in COMBINATIONS:
        for prompt in paraphrases(combination):
            assert parse_prompt(prompt) == combination
    for scene in trained(50):
        assert parse_prompt(prompt_of(scene)) == combination_of(scene)


def test_paraphrases_are_drawn_from_all_templates():
    scene = random_scene(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    drawn = {paraphrase(scene, rng) for _ in range(500)}
    assert drawn == set(paraphrases(combination_of(scene)))
    assert prompt_of(scene) not in drawn


def test_words_are_the_vocabulary_and_fit_the_text_encoder():
    assert len(set(WORDS)) == len(WORDS)
    used = set()
    for combination in COMBINATIONS:
        for prompt in [prompt_of(training_scene(np.random.default_rng(0))),
                       *paraphrases(combination)]:  # fmt: skip
            words = prompt.split()
            assert len(words) + 1 < VARIANTS["nano"].text_tokens
            used.update(words)
    assert used == set(WORDS) - set(RESERVED)
    assert len(RESERVED) >= 12
    assert all(word.isalpha() and word.islower() for word in WORDS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    nano_text_encoder.write_tokenizer(folder)
    return T5Tokenizer.from_pretrained(folder)


def test_every_word_is_one_token_of_its_own(tokenizer):
    assert set(WORDS) <= set(nano_text_encoder.WORDS)
    tokens = [tokenizer(word).input_ids for word in WORDS]
    assert {len(ids) for ids in tokens} == {2}
    assert {ids[1] for ids in tokens} == {tokenizer.eos_token_id}
    assert len({ids[0] for ids in tokens} - set(tokenizer.all_special_ids)) == len(WORDS)
    assert [tokenizer.decode(ids[:1]).strip() for ids in tokens] == list(WORDS)


def test_every_prompt_and_its_end_token_fit_the_text_encoder(tokenizer):
    rng = np.random.default_rng(0)
    for colour, shape, direction in COMBINATIONS:
        scene = random_scene(rng, colour=colour, shape=shape, direction=direction)
        for prompt in [prompt_of(scene), *paraphrases((colour, shape, direction))]:
            ids = tokenizer(prompt).input_ids
            assert len(ids) == len(prompt.split()) + 1 <= VARIANTS["nano"].text_tokens, prompt


@pytest.mark.parametrize(
    "prompt",
    ["", "a circle moving left", "a red moving left", "a red circle", "a red blue circle goes up"],
)
def test_what_does_not_name_all_three_is_refused(prompt):
    with pytest.raises(ValueError, match="does not name"):
        parse_prompt(prompt)


def test_training_never_shows_what_is_held_out_and_all_else():
    drawn = {combination_of(scene) for scene in trained(2000)}
    assert drawn == set(COMBINATIONS) - HELD_OUT


def test_training_scenes_can_start_independently_of_the_direction():
    assert max(scene.speed for scene in trained(50, independent_start=True)) <= 2
    assert max(scene.speed for scene in trained(50)) > 2


def test_every_word_and_pair_of_words_is_seen_in_training():
    seen = set(COMBINATIONS) - HELD_OUT
    for first, second in combinations(range(3), 2):
        pairs = Counter((each[first], each[second]) for each in seen)
        lengths = [len(names) for names in (COLOURS, SHAPES, DIRECTIONS)]
        assert len(pairs) == lengths[first] * lengths[second]
        assert min(pairs.values()) >= 2
        assert max(Counter((each[first], each[second]) for each in HELD_OUT).values()) == 1
    for place, names in enumerate((COLOURS, SHAPES, DIRECTIONS)):
        assert {each[place] for each in HELD_OUT} == set(names)
