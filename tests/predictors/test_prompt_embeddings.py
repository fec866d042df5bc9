"""Kept embeddings equal the pipeline's own, the T5 rests on a repeat, the cut text is exact."""

import copy
import itertools
import logging
import sys
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from predictors.prompt_embeddings import PromptEmbeddings, dropped_text
from tests.predictors.interrupting import interrupted_at_line
from weights.variants import VARIANTS

TOKENS = VARIANTS["nano"].text_tokens
PROMPTS = ["a red circle", "a blue square that moves to the left", ""]
LONG = "a red circle that moves to the far left"


def new_pipe(folder):
    from diffusers import CogVideoXPipeline

    pipe = CogVideoXPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return new_pipe(tiny_folder)


@pytest.fixture(scope="module")
def nano_tokenizer(tmp_path_factory):
    """The tokenizer that ships: whole words for what training saw, letters for the rest."""
    from transformers import T5Tokenizer

    from cli.nano import convert_nano

    folder = convert_nano("nano", tmp_path_factory.mktemp("checkpoints"))
    return T5Tokenizer.from_pretrained(folder / "tokenizer")


@contextmanager
def counted(module):
    """Counts the runs of a module's forward."""
    runs = []
    hook = module.register_forward_hook(lambda *_: runs.append(None))
    yield runs
    hook.remove()


def pipelines_own(pipe, prompt, negative_prompt, guidance):
    with torch.no_grad():
        return pipe.encode_prompt(prompt, negative_prompt, guidance, max_sequence_length=TOKENS)


@pytest.mark.parametrize("prompt", [*PROMPTS, LONG])
@pytest.mark.parametrize("negative", ["", "a blue square"])
def test_embeddings_are_those_of_the_pipeline_when_new_and_when_kept(pipe, prompt, negative):
    embeddings = PromptEmbeddings(pipe, TOKENS)
    expected = pipelines_own(pipe, prompt, negative, True)
    for _ in range(2):
        found = embeddings.encode(prompt, negative, guidance=True)
        assert torch.equal(found.prompt_embeds, expected[0])
        assert torch.equal(found.negative_prompt_embeds, expected[1])
        assert not found.prompt_embeds.requires_grad


def test_a_video_of_kept_embeddings_is_the_one_of_the_prompts(pipe):
    options = {
        "height": 64,
        "width": 64,
        "num_frames": 9,
        "num_inference_steps": 2,
        "max_sequence_length": TOKENS,
        "output_type": "latent",
    }
    negative = "a blue square"
    plain = pipe("a red circle", negative, generator=torch.manual_seed(3), **options).frames
    embeddings = PromptEmbeddings(pipe, TOKENS)
    embeddings.encode("a red circle", negative, guidance=True)
    kept = embeddings.encode("a red circle", negative, guidance=True)
    made = pipe(
        prompt_embeds=kept.prompt_embeds,
        negative_prompt_embeds=kept.negative_prompt_embeds,
        generator=torch.manual_seed(3),
        **options,
    ).frames
    assert kept.hits == 2
    assert torch.equal(made, plain)


def test_each_text_runs_the_t5_once(pipe):
    embeddings = PromptEmbeddings(pipe, TOKENS)
    with counted(pipe.text_encoder) as runs:
        hits = [
            embeddings.encode(prompt, negative, guidance=True).hits
            for prompt, negative in [("a", ""), ("b", ""), ("a", "b"), ("c", "c"), ("a", "")]
        ]
    assert hits == [0, 1, 2, 1, 2]
    assert len(runs) == len({"a", "", "b", "c"})


def test_without_guidance_the_negative_prompt_is_not_encoded(pipe):
    embeddings = PromptEmbeddings(pipe, TOKENS)
    with counted(pipe.text_encoder) as runs:
        found = embeddings.encode("a", "b", guidance=False)
    assert found.negative_prompt_embeds is None
    assert len(runs) == 1
    assert embeddings.encode("b", "", guidance=False).hits == 0


def test_under_offload_a_repeat_neither_runs_nor_moves_the_t5(tiny_folder):
    pipe = new_pipe(tiny_folder)
    pipe.enable_model_cpu_offload(device="cpu")
    embeddings = PromptEmbeddings(pipe, TOKENS)
    first = embeddings.encode("a red circle", "", guidance=True)
    pipe.maybe_free_model_hooks()
    moves = []
    original = pipe.text_encoder._hf_hook.pre_forward
    pipe.text_encoder._hf_hook.pre_forward = lambda *a, **k: moves.append(None) or original(*a, **k)
    with counted(pipe.text_encoder) as runs:
        again = embeddings.encode("a red circle", "", guidance=True)
        assert (runs, moves) == ([], [])
        embeddings.encode("a blue square", "", guidance=True)
        assert (len(runs), len(moves)) == (1, 1)
    assert torch.equal(again.prompt_embeds, first.prompt_embeds)
    assert torch.equal(again.negative_prompt_embeds, first.negative_prompt_embeds)


def test_the_texts_used_longest_ago_go_first(pipe):
    one = PromptEmbeddings(pipe, TOKENS).encode("a", "", guidance=False).prompt_embeds.nbytes
    overhead = sys.getsizeof("a")
    embeddings = PromptEmbeddings(pipe, TOKENS, limit_bytes=2 * (one + overhead))
    for prompt in "abac":
        embeddings.encode(prompt, "", guidance=False)
    assert [embeddings.encode(prompt, "", guidance=False).hits for prompt in "cab"] == [1, 1, 0]


def test_long_texts_count_towards_the_limit(pipe):
    """Only 16 tokens of them reach the embeddings, but all of their characters are keys."""
    embeddings = PromptEmbeddings(pipe, TOKENS, limit_bytes=20_000)
    for prompt in ("a", "a" * 10_000, "a" * 20_000):
        embeddings.encode(prompt, "", guidance=False)
    hits = [
        embeddings.encode(p, "", guidance=False).hits for p in ("a", "a" * 10_000, "a" * 20_000)
    ]
    assert hits == [1, 1, 0]


def test_an_interrupted_encoding_leaves_the_cache_right(pipe):
    """Cog's cancelling raises between any two bytecodes: here, before every line in turn."""
    expected = {text: pipelines_own(pipe, text, "", False)[0] for text in ("a", "b")}
    limit = expected["a"].nbytes + 100
    embeddings = PromptEmbeddings(pipe, TOKENS, limit_bytes=limit)
    for number in itertools.count():
        embeddings.encode("b", "", guidance=False)
        if not interrupted_at_line(
            number,
            lambda: embeddings.encode("a", "", guidance=False),
            "predictors/prompt_embeddings.py",
        ):
            break
        assert sum(kept.nbytes for kept in embeddings._kept.values()) <= limit
        for text, wanted in expected.items():
            assert torch.equal(embeddings.encode(text, "", guidance=False).prompt_embeds, wanted)
    assert number > 10


@pytest.fixture
def library_log(caplog, monkeypatch, pipe):
    """What transformers and diffusers log, with a tokenizer that warns like the released ones."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        monkeypatch.setattr(logger, "propagate", False)
        logger.addHandler(caplog.handler)
    monkeypatch.setattr(pipe.tokenizer, "model_max_length", TOKENS)
    monkeypatch.setattr(pipe.tokenizer, "deprecation_warnings", {})
    yield caplog
    for logger in loggers:
        logger.removeHandler(caplog.handler)


def test_a_long_prompt_is_said_by_us_alone(pipe, library_log):
    assert dropped_text(pipe.tokenizer, LONG, TOKENS) == "hat moves to the far left"
    PromptEmbeddings(pipe, TOKENS).encode(LONG, LONG, guidance=True)
    assert library_log.records == []
    logging.getLogger(type(pipe).__module__).warning("something else")
    assert len(library_log.records) == 1


def seen_text(tokenizer, prompt):
    """What the model sees of a prompt, without spaces, from the spelling of its tokens."""
    seen = tokenizer(prompt, max_length=TOKENS, truncation=True).input_ids
    assert seen[-1] == tokenizer.eos_token_id
    return "".join(tokenizer.convert_ids_to_tokens(seen[:-1])).replace("▁", "")


@given(st.text(alphabet="abredcircleleftmoving \t\n", max_size=80))
def test_the_dropped_text_is_the_rest_of_what_the_model_sees(nano_tokenizer, prompt):
    dropped = dropped_text(nano_tokenizer, prompt, TOKENS)
    assert prompt.endswith(dropped)
    kept = prompt[: len(prompt) - len(dropped)]
    assert "".join(kept.split()) == seen_text(nano_tokenizer, prompt)


@given(st.integers(1, 40), st.sampled_from([" ", "  ", "\n", "\t "]))
def test_all_tokens_but_the_last_are_for_words(nano_tokenizer, count, space):
    words = ["a", "red", "circle", "moving", "left"] * 8
    prompt = space.join(words[:count])
    assert dropped_text(nano_tokenizer, prompt, TOKENS) == space.join(words[:count][TOKENS - 1 :])


@pytest.mark.parametrize(
    ("prompt", "dropped"),
    [
        ("red " * 15 + "Über allen Gipfeln 🦓", "Über allen Gipfeln 🦓"),
        ("red " * 15 + "</s> the rest", "</s> the rest"),
        ("red " * 13 + "zebra", "ebra"),
        ("red " * 14 + "zebra", "zebra"),
        ("red " * 14 + "🦓🦓 moon", "🦓🦓 moon"),
        ("red " * 13 + "🦓🦓 moon", "moon"),
        ("red " * 15 + " ", ""),
        ("", ""),
    ],
)
def test_the_dropped_text_is_in_the_users_own_characters(nano_tokenizer, prompt, dropped):
    assert dropped_text(nano_tokenizer, prompt, TOKENS) == dropped


def test_a_character_that_is_several_tokens_is_dropped_as_a_whole(nano_tokenizer):
    """The released tokenizers spell such characters out first; here "f" would still fit."""
    from tokenizers import normalizers

    tokenizer = copy.deepcopy(nano_tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    assert dropped_text(tokenizer, "red " * 13 + "\ufb01gure", TOKENS) == "\ufb01gure"
