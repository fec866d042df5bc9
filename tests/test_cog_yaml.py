"""cog.yaml names only what exists, and everything it installs has a version."""

import re
from fnmatch import fnmatch
from importlib.metadata import version

import pytest
import yaml

from cli.runners import ROOT, RUNNERS, TRAINER

CONFIGS = sorted(ROOT.glob("cog*.yaml"))
# Releases of torch for which Cog's CUDA table has an index.
KNOWN_TORCH = {"2.9.0", "2.9.1", "2.10.0", "2.11.0"}


@pytest.fixture(params=CONFIGS, ids=lambda path: path.name)
def config(request):
    return yaml.safe_load(request.param.read_text())


@pytest.fixture
def requirements(config):
    lines = (ROOT / config["build"]["python_requirements"]).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_runner_exists_and_imports(config):
    file, class_name = config["run"].split(":")
    (runner,) = (r for r in RUNNERS.values() if r.path == ROOT / file)
    assert runner.name == class_name
    assert "prompt" in runner.signature().parameters


def test_what_trains_exists_and_imports(config):
    file, function = config["train"].split(":")
    assert TRAINER.path == ROOT / file
    assert TRAINER.name == function
    assert "videos" in TRAINER.signature().parameters


def test_every_image_has_a_runner_that_training_knows(config):
    from training.finetuning.training_server import RUNNER_TASKS

    file, _ = config["run"].split(":")
    assert RUNNERS[RUNNER_TASKS[file]].path == ROOT / file


def test_the_configuration_has_only_keys_that_cog_knows(config):
    # Of Cog's config_schema_v1.0.json.
    known = {"build", "run", "train", "image", "concurrency", "environment"}
    assert config.keys() <= known
    # Both must be `FILE.py:NAME`, else `cog build` refuses them.
    assert all(re.fullmatch(r"\w+\.py:\w+", config[key]) for key in ("run", "train"))


def test_every_requirement_is_pinned(requirements):
    assert [
        line for line in requirements if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9.]+", line)
    ] == []


def test_torch_is_one_that_cog_has_an_index_for(requirements):
    pinned = dict(line.split("==") for line in requirements)
    assert pinned["torch"] in KNOWN_TORCH


def test_the_image_runs_the_cog_that_the_tests_run(config, requirements):
    assert config["build"]["sdk_version"] == version("cog")
    assert f"cog=={version('cog')}" in requirements


def test_the_image_downloads_nothing_but_packages(config):
    assert config["build"].keys().isdisjoint({"run", "pre_install"})


@pytest.mark.parametrize(
    "needed",
    [
        ".cog",
        "cog.yaml",
        "cog-i2v.yaml",
        "requirements.txt",
        "predict_t2v.py",
        "predictors",
        "train.py",
        "training",
        "weights",
    ],
)
def test_the_image_gets_what_it_needs(needed):
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#") and fnmatch(needed, line)] == []
