"""Every variable of the operator's is read from what is given, and a mistake in any is told."""

import os

import pytest

from predictors.lora.source import LoraPlaces
from predictors.operator_settings import OperatorSettings, operator_settings
from predictors.pipeline import PipelineSettings
from predictors.weights_source import INSTALLED
from tests.weights.surroundings import check_message
from weights.caching.cache import Cache
from weights.errors import UserError

MALFORMED = {
    "COGVIDEOX_MEMORY": "all",
    "COGVIDEOX_QUANTIZE": "int7",
    "COGVIDEOX_COMPILE": "yes",
    "COGVIDEOX_ALLOW_NETWORKS": "intranet.example",
    "COGVIDEOX_LORA_PATHS": "/does/not/exist",
    "HF_ENDPOINT": "mirror.test",
    "COGVIDEOX_CACHE_LIMIT": "much",
    "COGVIDEOX_METADATA": "yes",
    "COGVIDEOX_LOG_PROMPTS": "no",
}


def test_without_any_variable_the_defaults_hold():
    assert operator_settings({}) == OperatorSettings()
    assert OperatorSettings().cache == Cache(INSTALLED.resolve())


def test_what_is_given_counts_and_not_the_environment_of_this_process(monkeypatch, tmp_path):
    given = {
        "PATH": os.environ["PATH"],
        "COGVIDEOX_MEMORY": "model-offload",
        "COGVIDEOX_ALLOW_NETWORKS": "10.1.0.0/16",
        "COGVIDEOX_LORA_PATHS": str(tmp_path),
        "HF_ENDPOINT": "https://mirror.test",
        "COGVIDEOX_CACHE": str(tmp_path / "cache"),
        "COGVIDEOX_CACHE_LIMIT": "80GB",
        "COGVIDEOX_METADATA": "0",
        "COGVIDEOX_LOG_PROMPTS": "0",
    }
    for name, value in MALFORMED.items():
        monkeypatch.setenv(name, value)
    settings = operator_settings(given)
    assert settings.pipeline == PipelineSettings(memory="model-offload")
    assert [str(network) for network in settings.networks] == ["10.1.0.0/16"]
    assert settings.lora_places == LoraPlaces((tmp_path.resolve(),), "https://mirror.test")
    assert settings.cache == Cache((tmp_path / "cache").resolve(), 80_000_000_000)
    assert not settings.metadata
    assert not settings.log_prompts


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_variable_is_named(name):
    with pytest.raises(UserError, match=name) as error:
        operator_settings({name: MALFORMED[name]})
    check_message(error.value)
