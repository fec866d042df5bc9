"""The whole path for each released variant at golden size: clips, training, the LoRA put to use."""

import json
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from predictors.lora.adapters import Adapters
from predictors.video import write_video
from predictors.weights_source import ReadyWeights
from tests.conftest import save_tiny_pipeline
from tests.training.finetuning.golden_inputs import new_transformer, output, tiny_variant
from tests.training.finetuning.tiny_variants import TOKENS, VARIANT_OF_GOLDEN
from training.dataset.clip import Clip
from training.finetuning import finetune as finetune_module
from training.finetuning.dataset_rules import clip_rules
from training.finetuning.finetune import Training, finetune
from training.finetuning.settings import FinetuneSettings
from weights.variants import PIPELINES

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES, WIDTH, HEIGHT = 9, 96, 64
# B begins as zeros, and as long as it is that no gradient reaches A: the second step is A's first.
STEPS = 2
SETTINGS = {"steps": STEPS, "rank": 4, "alpha": 4.0, "learning_rate": 0.05, "validate_every": 0}


@dataclass
class Observed:
    """A transformer in training."""

    model: Any
    at_first: dict[str, torch.Tensor]
    """All it had before the first step."""
    gradients: dict[str, list[torch.Tensor]]
    """Of each parameter that got any, step by step."""


@pytest.fixture
def observed(monkeypatch):
    """Filled in when the transformer is loaded."""
    seen = Observed(None, {}, {})
    load = finetune_module.load_trainable

    def load_observed(*given):
        seen.model = load(*given)
        seen.at_first = {name: t.clone() for name, t in seen.model.state_dict().items()}
        for name, parameter in seen.model.named_parameters():
            seen.gradients[name] = []
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(
                    lambda p, name=name: seen.gradients[name].append(p.grad.clone())
                )
        return seen.model

    monkeypatch.setattr(finetune_module, "load_trainable", load_observed)
    return seen


def base_of(golden, folder):
    """A weights folder with random weights of the golden configuration."""
    variant = replace(
        tiny_variant(golden),
        text_tokens=TOKENS,
        vae_channels=(8, 8, 8, 8),
        vae_layers_per_block=1,
        vae_norm_groups=2,
        width=WIDTH,
        height=HEIGHT,
        any_aspect=False,
        min_frames=FRAMES,
        default_frames=FRAMES,
    )
    save_tiny_pipeline(variant, folder)
    new_transformer(golden).save_pretrained(folder / "transformer")
    (folder / "conversion.json").write_text(
        json.dumps({"variant": variant.name, "dtype": "float32"})
    )
    return ReadyWeights(folder=folder, variant=variant, dtype="float32")


def clips_in(folder, fps):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        path = folder / f"{number}.mp4"
        write_video(rng.integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), np.uint8), path, fps=fps)
        yield Clip(path=path, prompt=f"clip {number}", image=None, frames=FRAMES)


@pytest.fixture(params=VARIANT_OF_GOLDEN)
def golden(request):
    return request.param


@pytest.fixture
def training(golden, tmp_path):
    base = base_of(golden, tmp_path / "base")
    return Training(
        base=base,
        base_name="mine",
        clips=list(clips_in(tmp_path / "clips", base.variant.fps)),
        rules=clip_rules(base.variant, images=False),
        settings=FinetuneSettings(**SETTINGS),
        out=tmp_path / "out",
    )


def served(training, golden, path):
    """What our predictor computes with the LoRA."""
    model = new_transformer(golden)
    with Adapters(model, training.base.variant).applied(path, 1.0):
        return output(model, golden)


def in_diffusers(training, golden, path):
    """What plain diffusers computes with it."""
    pipeline = getattr(diffusers, PIPELINES[training.base.variant.task])
    pipe = pipeline.from_pretrained(training.base.folder)
    pipe.load_lora_weights(str(path))
    return output(pipe.transformer, golden)


def test_the_adapter_learns_alone_and_acts_where_it_is_loaded_as_it_was_trained(
    training, golden, observed
):
    path = finetune(training)

    adapter = {
        f"transformer_blocks.{n}.attn1.{module}.lora_{factor}.default.weight"
        for n in range(training.base.variant.num_layers)
        for module in ("to_q", "to_k", "to_v", "to_out.0")
        for factor in "AB"
    }
    reached = {name for name, gradients in observed.gradients.items() if gradients}
    assert reached == adapter
    for name in adapter:
        first, second = observed.gradients[name]
        assert bool(first.any()) == ("lora_B" in name)
        assert bool(second.any())
    now = observed.model.state_dict()
    assert {n for n, t in observed.at_first.items() if not torch.equal(t, now[n])} == adapter

    trained = output(observed.model.eval(), golden)
    assert (trained - output(new_transformer(golden), golden)).abs().max() > 1e-2
    close = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(served(training, golden, path), trained, **close)
    torch.testing.assert_close(in_diffusers(training, golden, path), trained, **close)
