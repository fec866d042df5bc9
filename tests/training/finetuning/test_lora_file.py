"""The file that a LoRA becomes acts as it was trained, in diffusers and in our predictor alike."""

import json

import diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from predictors.lora.adapter_file import read_adapter
from predictors.lora.adapters import Adapters
from tests.training.finetuning.golden_inputs import (
    lora_of,
    new_transformer,
    output,
    tiny_variant,
    train_at_random,
)
from tests.training.finetuning.tiny_variants import VARIANT_OF_GOLDEN
from training.finetuning.lora import BLOCK_MODULES, add_lora
from training.finetuning.lora_file import save_lora, training_metadata
from training.finetuning.settings import SAT_TARGETS
from weights.errors import OperationError, UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(golden, path, *, rank=4, alpha=1.0, targets=SAT_TARGETS, dtype=torch.float32, **extra):
    """A transformer with a trained LoRA, which is saved as `path` as well."""
    model = new_transformer(golden, dtype)
    train_at_random(add_lora(model, rank=rank, alpha=alpha, targets=targets, seed=0))
    save_lora(
        lora_of(model),
        path,
        variant=VARIANT_OF_GOLDEN[golden],
        rank=rank,
        alpha=alpha,
        targets=targets,
        extra=extra,
    )
    return model


def served(golden, path, scale, dtype=torch.float32):
    """What our predictor computes."""
    model = new_transformer(golden, dtype)
    with Adapters(model, tiny_variant(golden)).applied(path, scale):
        return output(model, golden)


def in_diffusers(golden, path):
    """What plain diffusers computes."""
    model = new_transformer(golden)
    pipe = diffusers.CogVideoXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=model,
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    )
    pipe.load_lora_weights(str(path))
    return output(model, golden)


@pytest.mark.parametrize("golden", VARIANT_OF_GOLDEN)
@pytest.mark.parametrize(
    ("alpha", "targets"), [(1.0, SAT_TARGETS), (6.5, BLOCK_MODULES)], ids=["as SAT", "all"]
)
def test_at_scale_1_it_acts_as_trained(golden, alpha, targets, tmp_path):
    path = tmp_path / "lora.safetensors"
    model = trained(golden, path, alpha=alpha, targets=targets)
    expected = output(model, golden)
    close = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(served(golden, path, 1.0), expected, **close)
    torch.testing.assert_close(in_diffusers(golden, path), expected, **close)
    assert (served(golden, path, 0.5) - expected).abs().max() > 1e-2
    assert torch.equal(served(golden, path, 0.0), output(new_transformer(golden), golden))


def test_half_precision_bases_are_served_alike(tmp_path):
    """To the last bit but one: the matrices are float32 in training and the base's when served."""
    path = tmp_path / "lora.safetensors"
    model = trained("2b", path, dtype=torch.bfloat16)
    plain = output(new_transformer("2b", torch.bfloat16), "2b")
    expected = output(model, "2b")
    off = (served("2b", path, 1.0, torch.bfloat16) - expected).abs().mean()
    assert off < 0.05 * (expected - plain).abs().mean()


def test_our_reader_has_nothing_to_assume(tmp_path):
    trained("5b", tmp_path / "lora.safetensors", rank=3, alpha=2.0)
    adapter = read_adapter(tmp_path / "lora.safetensors", tiny_variant("5b"))
    assert adapter.notes == ()
    assert {pair.scale for pair in adapter.pairs.values()} == {2 / 3}
    assert {pair.rank for pair in adapter.pairs.values()} == {3}
    with pytest.raises(UserError, match="trained for cogvideox-5b, as the file records"):
        read_adapter(tmp_path / "lora.safetensors", tiny_variant("2b"))


def test_what_was_trained_is_in_the_file_bit_for_bit(tmp_path):
    model = trained("2b", tmp_path / "lora.safetensors")
    state = {f"transformer.{name}": t for name, t in lora_of(model).items()}
    saved = load_file(tmp_path / "lora.safetensors")
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], state[name]) for name in state)


def test_metadata_say_what_it_is(tmp_path):
    settings = {"steps": 7, "targets": ("to_q",), "learning_rate": 1e-3, "note": "ünïcode\n\"'"}
    extra = training_metadata(settings, ["a red zigzag", "日本 ☃"])
    trained("1.5_5b_i2v", tmp_path / "lora.safetensors", alpha=2.5, **extra)
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["lora_adapter_metadata"]) == {
        "transformer.r": 4,
        "transformer.lora_alpha": 2.5,
        "transformer.target_modules": sorted(SAT_TARGETS),
    }
    assert metadata["variant"] == "cogvideox1.5-5b-i2v"
    assert (metadata["tool"], metadata["format"]) == ("cog-cogvideox", "pt")
    assert metadata["version"]
    assert json.loads(metadata["settings"]) == settings | {"targets": ["to_q"]}
    assert json.loads(metadata["trigger_prompts"]) == ["a red zigzag", "日本 ☃"]


def test_what_the_caller_adds_cannot_replace_what_loading_needs(tmp_path):
    trained("2b", tmp_path / "lora.safetensors", variant="nano", lora_adapter_metadata="{}")
    adapter = read_adapter(tmp_path / "lora.safetensors", tiny_variant("2b"))
    assert {pair.scale for pair in adapter.pairs.values()} == {1 / 4}


def test_the_same_lora_gives_the_same_bytes(tmp_path):
    extra = training_metadata({"b": 1, "a": 2}, ["x"]) | {f"key{n}": "v" for n in range(20)}
    trained("2b", tmp_path / "one.safetensors", **extra)
    trained("2b", tmp_path / "two.safetensors", **dict(reversed(extra.items())))
    assert (tmp_path / "one.safetensors").read_bytes() == (
        tmp_path / "two.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_that_blew_up_leaves_the_file_before_it(value, tmp_path):
    path = tmp_path / "lora.safetensors"
    state = lora_of(trained("2b", path))
    before = path.read_bytes()
    name = "transformer_blocks.1.attn1.to_k.lora_B.weight"
    state[name][5, 2] = value
    with pytest.raises(OperationError, match=rf"{name} infinite or NaN"):
        save_lora(state, path, variant="nano", rank=4, alpha=1.0, targets=SAT_TARGETS, extra={})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
