"""Loading: settings first, offline before any library is imported, explicit dtype, both tasks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cli.runners import ROOT
from predictors.pipeline import (
    PipelineSettings,
    load_pipeline,
    load_text_encoder,
    pipeline_settings,
)
from predictors.prompt_embeddings import encode_texts
from predictors.weights_source import resolve_weights
from tests.conftest import save_tiny_pipeline
from weights.errors import UserError
from weights.variants import VARIANTS

# Reports what each library would have read from the environment when it was first imported.
SPY = """
import json, os, sys
seen = {}
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "huggingface_hub", "transformers", "diffusers"):
            seen.setdefault(name, os.environ.get("HF_HUB_OFFLINE"))
        return None
sys.meta_path.insert(0, Spy())
from predict_t2v import Runner
imported_early = list(seen)
Runner().setup()
print(json.dumps({"early": imported_early, "seen": seen}))
"""

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this is the way without a GPU")


def test_the_environment_is_offline_before_any_library_is_imported(tiny_folder):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS"))}
    result = subprocess.run(
        [sys.executable, "-c", SPY],
        cwd=ROOT,
        env=environment | {"COGVIDEOX_WEIGHTS": str(tiny_folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["early"] == []
    assert report["seen"] == {
        "torch": "1",
        "huggingface_hub": "1",
        "transformers": "1",
        "diffusers": "1",
    }


def load(folder: Path, task="t2v", **settings):
    return load_pipeline(resolve_weights(str(folder), task), PipelineSettings(**settings))


@without_cuda
def test_without_cuda_it_runs_in_float32_on_the_cpu_and_says_so(tiny_folder, capsys):
    loaded = load(tiny_folder)
    (line,) = capsys.readouterr().out.splitlines()
    assert "nano" in line
    assert "as float32, on the CPU" in line
    parts = (loaded.pipe.transformer, loaded.pipe.vae, loaded.pipe.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}
    assert loaded.pipe.vae.use_tiling
    assert (loaded.policy.device, loaded.policy.placement) == ("cpu", "resident")


@without_cuda
def test_a_choice_without_effect_is_warned_of(tiny_folder, capsys):
    load(tiny_folder, memory="model-offload")
    warning = capsys.readouterr().out.splitlines()[1]
    assert warning == (
        "Warning: COGVIDEOX_MEMORY is model-offload, which has no effect without a CUDA device."
    )


def test_the_image_to_video_task_has_its_own_pipeline(tmp_path):
    folder = tmp_path / "tiny-i2v"
    save_tiny_pipeline(VARIANTS["nano-i2v"], folder)
    (folder / "conversion.json").write_text('{"variant": "nano-i2v", "dtype": "float32"}')
    loaded = load(folder, "i2v")
    assert type(loaded.pipe).__name__ == "CogVideoXImageToVideoPipeline"
    assert loaded.variant.name == "nano-i2v"


def test_the_text_encoder_may_be_left_out_or_come_alone(tiny_folder, capsys):
    weights = resolve_weights(str(tiny_folder), "t2v")
    whole = load_pipeline(weights).pipe
    rest = load_pipeline(weights, text_encoder=False).pipe
    assert (rest.text_encoder, rest.tokenizer) == (None, None)
    assert rest.vae.use_tiling
    capsys.readouterr()
    alone = load_text_encoder(weights, prompts=2).pipe
    assert (alone.transformer, alone.vae) == (None, None)
    assert "Loading the text encoder of nano from" in capsys.readouterr().out
    texts = ["a red circle", "a blue square"]
    found = encode_texts(alone, texts, 16)
    assert torch.equal(found, encode_texts(whole, texts, 16))
    assert not found.requires_grad


def test_a_text_encoder_alone_becomes_int8_too(tiny_folder):
    weights = resolve_weights(str(tiny_folder), "t2v")
    alone = load_text_encoder(weights, PipelineSettings(int8=True), prompts=1).pipe
    layer = alone.text_encoder.encoder.block[0].layer[0].SelfAttention.q
    assert type(layer.weight).__name__ == "Int8Tensor"


def test_weights_become_int8_where_the_operator_wants_it(tiny_folder, capsys):
    loaded = load(tiny_folder, int8=True)
    assert "with int8 weights" in capsys.readouterr().out
    block = loaded.pipe.transformer.transformer_blocks[0]
    assert type(block.attn1.to_q.weight).__name__ == "Int8Tensor"


# torch 2.13 says this of itself when its compiler is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_blocks_are_compiled_where_the_operator_wants_it(tiny_folder, capsys):
    loaded = load(tiny_folder, compiled=True)
    assert "compiles the transformer's blocks" in capsys.readouterr().out
    blocks = loaded.pipe.transformer.transformer_blocks
    assert all("forward" in vars(block) for block in blocks)


def test_settings_come_from_the_environment():
    environment = {
        "COGVIDEOX_MEMORY": "group-offload",
        "COGVIDEOX_QUANTIZE": "int8",
        "COGVIDEOX_COMPILE": "1",
        "PATH": os.environ["PATH"],
    }
    expected = PipelineSettings(memory="group-offload", int8=True, compiled=True)
    assert pipeline_settings(environment) == expected
    assert pipeline_settings({}) == PipelineSettings()


def test_settings_that_contradict_each_other_are_refused():
    environment = {
        "COGVIDEOX_MEMORY": "sequential",
        "COGVIDEOX_COMPILE": "1",
        "PATH": os.environ["PATH"],
    }
    with pytest.raises(UserError, match="interrupts the compiled code"):
        pipeline_settings(environment)


@pytest.mark.parametrize("variable", ["COGVIDEOX_MEMORY", "COGVIDEOX_CACHE_LIMIT"])
def test_a_malformed_setting_costs_no_download(monkeypatch, variable):
    from predictors.video_model import load_from_environment

    monkeypatch.setenv("COGVIDEOX_WEIGHTS", "/there/is/nothing.lock.json")
    monkeypatch.setenv(variable, "all")
    with pytest.raises(UserError, match=variable):
        load_from_environment("t2v")
