"""Prompts are encoded in the same batches whatever is done, each once, and nothing is kept."""

import weakref
from types import SimpleNamespace

import pytest
import torch

from predictors import pipeline
from predictors.pipeline import DEFAULT_SETTINGS, load_pipeline
from predictors.prompt_embeddings import encode_texts
from predictors.weights_source import resolve_weights
from sampling import prompt_encoding
from sampling.job_plan import JobRules, plan_jobs
from sampling.prompt_encoding import encode_prompts, needed_batches, text_batches
from tests.sampling.prompt_lines_of import line
from weights.errors import OperationError
from weights.variants import VARIANTS

RULES = JobRules(variant=VARIANTS["nano"])


@pytest.fixture(scope="module")
def weights(tiny_folder):
    return resolve_weights(str(tiny_folder), "t2v")


@pytest.fixture(scope="module")
def pipe(weights):
    return load_pipeline(weights).pipe


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(prompt_encoding, "BATCH", 3)


def plan_of(*lines, batch=1):
    return plan_jobs(lines, RULES, batch)


def encoded(weights, folder, batches, advance=lambda count: None, dropped=lambda *_: None):
    folder.mkdir(exist_ok=True)
    return encode_prompts(
        weights, DEFAULT_SETTINGS, batches, folder, advance=advance, tell_dropped=dropped
    )


def test_each_text_comes_once_and_negative_ones_where_they_count():
    plan = plan_of(
        line(1, prompt="a"),
        line(2, prompt="b", negative_prompt="n"),
        line(3, prompt="a"),
        line(4, prompt="c", guidance_scale=1, negative_prompt="unused"),
        line(5, prompt="d", scheduler="sat", negative_prompt="unused"),
    )
    assert text_batches(plan.jobs) == [("a", "", "b"), ("n", "c", "d")]


def test_only_batches_that_are_needed_are_encoded_but_each_as_a_whole():
    plan = plan_of(*(line(n, prompt=str(n), guidance_scale=1) for n in range(1, 8)))
    batches = text_batches(plan.jobs)
    assert needed_batches(batches, plan.units[4:5]) == [("4", "5", "6")]
    assert needed_batches(batches, []) == []


def test_embeddings_are_those_of_the_pipeline(weights, pipe, tmp_path):
    plan = plan_of(line(1, prompt="a circle"), line(2, prompt="a square"), batch=2)
    (batch,) = batches = text_batches(plan.jobs)
    counts = []
    prompts = encoded(weights, tmp_path, batches, counts.append)
    expected = encode_texts(pipe, batch, 16)
    found = prompts.of(plan.units[0])
    # The order of texts is circle, the empty one, square.
    assert torch.equal(found.prompt_embeds, expected[[0, 2]])
    assert torch.equal(found.negative_prompt_embeds, expected[[1, 1]])
    assert found.prompt_embeds.shape == (2, 16, 64)
    assert counts == [3]
    alone, _ = pipe.encode_prompt(
        "a square", do_classifier_free_guidance=False, max_sequence_length=16
    )
    torch.testing.assert_close(found.only(1).prompt_embeds, alone, rtol=1e-4, atol=1e-5)


def test_the_bytes_are_the_same_when_a_part_is_encoded_later(weights, tmp_path):
    plan = plan_of(*(line(n, prompt=f"circle {n}") for n in range(1, 8)))
    batches = text_batches(plan.jobs)
    whole = encoded(weights, tmp_path / "whole", batches)
    last = plan.units[-1]
    part = encoded(weights, tmp_path / "part", needed_batches(batches, [last]))
    assert len(list((tmp_path / "part").iterdir())) < len(list((tmp_path / "whole").iterdir()))
    assert torch.equal(part.of(last).prompt_embeds, whole.of(last).prompt_embeds)
    assert torch.equal(part.of(last).negative_prompt_embeds, whole.of(last).negative_prompt_embeds)


def test_without_guidance_there_are_no_negative_ones_and_with_sat_zeros(weights, tmp_path):
    plan = plan_of(
        line(1, guidance_scale=1),
        line(2, scheduler="sat"),
        line(3, scheduler="sat", guidance_scale=1),
    )
    prompts = encoded(weights, tmp_path, text_batches(plan.jobs))
    plain, sat, sat_plain = (prompts.of(unit) for unit in plan.units)
    assert plain.negative_prompt_embeds is None
    assert sat_plain.negative_prompt_embeds is None
    assert sat.negative_prompt_embeds.shape == sat.prompt_embeds.shape
    assert not sat.negative_prompt_embeds.any()


def test_nothing_but_the_text_encoder_is_loaded_and_it_is_freed(weights, tmp_path, monkeypatch):
    seen = []
    load = pipeline.load_text_encoder

    def loading(*args, **kwargs):
        loaded = load(*args, **kwargs)
        seen.append((loaded.pipe.transformer, loaded.pipe.vae))
        seen.append(weakref.ref(loaded.pipe.text_encoder))
        return loaded

    monkeypatch.setattr(pipeline, "load_text_encoder", loading)
    encoded(weights, tmp_path, [("a",)])
    others, encoder = seen
    assert others == (None, None)
    assert encoder() is None


def test_nothing_is_loaded_for_nothing(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "load_text_encoder", None)
    assert not encoded(weights, tmp_path, []).places


def test_what_the_model_will_not_see_is_told(weights, tmp_path):
    told = []
    long = "a circle " * 20
    encoded(weights, tmp_path, [("a circle", long)], dropped=lambda *each: told.append(each))
    ((text, dropped),) = told
    assert text == long
    assert long.endswith(dropped)


def test_a_disk_that_is_too_small_is_told_before_anything_is_loaded(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "load_text_encoder", None)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(OperationError, match="are needed"):
        encoded(weights, tmp_path, [("a",)])
