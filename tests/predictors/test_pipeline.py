"""Loading: offline before any library is imported, explicit dtype, tiling."""

import json
import os
import subprocess
import sys

import pytest
import torch

from cli.runners import ROOT
from predictors.pipeline import load_from_environment, load_pipeline
from predictors.weights_source import resolve_weights

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="this is the way without a GPU")
def test_without_cuda_it_runs_in_float32_on_the_cpu_and_says_so(tiny_folder, capsys):
    loaded = load_pipeline(resolve_weights(str(tiny_folder), "t2v"))
    (line,) = capsys.readouterr().out.splitlines()
    assert "nano" in line
    assert "as float32, on the CPU" in line
    parts = (loaded.pipe.transformer, loaded.pipe.vae, loaded.pipe.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}
    assert loaded.pipe.vae.use_tiling


def test_without_a_choice_the_5b_model_is_meant(monkeypatch):
    monkeypatch.delenv("COGVIDEOX_WEIGHTS", raising=False)
    asked = []
    monkeypatch.setattr(
        "predictors.pipeline.resolve_weights", lambda source, task: asked.append((source, task))
    )
    monkeypatch.setattr("predictors.pipeline.load_pipeline", lambda weights: None)
    monkeypatch.setattr("os.environ", dict(os.environ))
    load_from_environment("t2v")
    assert asked == [("cogvideox-5b", "t2v")]
