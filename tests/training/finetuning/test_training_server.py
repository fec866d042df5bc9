"""What a server that trains settles at its start."""

import cog
import pytest

from predictors import outbound
from training.finetuning import training_server
from training.finetuning.training_server import base_model, prepare_server
from weights.errors import UserError


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A process that has prepared nothing yet, in an environment without our variables."""
    monkeypatch.setattr(outbound, "_allowed", None)
    monkeypatch.setattr(cog.URLPath, "convert", cog.URLPath.convert)
    for name in ("COGVIDEOX_WEIGHTS", "COG_PREDICT_TYPE_STUB"):
        monkeypatch.delenv(name, raising=False)
    base_model.cache_clear()
    yield
    base_model.cache_clear()


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the weights' source; nothing is installed."""
    questions = []

    def resolve(source, task):
        questions.append((source, task))
        raise UserError("Nothing is installed here.", "", "")

    monkeypatch.setattr(training_server, "resolve_weights", resolve)
    return questions


@pytest.mark.parametrize(
    ("runner", "question"),
    [
        ("predict_t2v.py:Runner", ("cogvideox-5b", "t2v")),
        ("/src/predict_i2v.py:Runner", ("cogvideox-5b-i2v", "i2v")),
        ("somebodys.py:Runner", ("cogvideox-5b", None)),
        (None, ("cogvideox-5b", None)),
    ],
)
def test_by_default_it_trains_the_model_of_the_images_runner(asked, monkeypatch, runner, question):
    if runner:
        monkeypatch.setenv("COG_PREDICT_TYPE_STUB", runner)
    with pytest.raises(UserError, match="Nothing is installed here"):
        prepare_server()
    assert asked == [question]


def test_weights_of_another_task_than_the_images_are_refused(monkeypatch, tiny_i2v_folder):
    monkeypatch.setenv("COG_PREDICT_TYPE_STUB", "predict_t2v.py:Runner")
    monkeypatch.setenv("COGVIDEOX_WEIGHTS", str(tiny_i2v_folder))
    with pytest.raises(UserError, match="nano-i2v, a model for i2v"):
        prepare_server()
    assert outbound._allowed is None


def test_where_no_runner_is_known_the_weights_say_the_task(monkeypatch, tiny_i2v_folder, capsys):
    monkeypatch.setenv("COGVIDEOX_WEIGHTS", str(tiny_i2v_folder))
    prepare_server()
    assert base_model().variant.name == "nano-i2v"
    assert capsys.readouterr().out == "Trainings are for nano-i2v (i2v).\n"


def test_files_of_requests_are_guarded_and_limited(monkeypatch, tiny_folder):
    monkeypatch.setenv("COGVIDEOX_WEIGHTS", str(tiny_folder))
    cogs_own = cog.URLPath.convert
    prepare_server()
    assert outbound._allowed == ()
    assert cog.URLPath.convert is not cogs_own
    with pytest.raises(UserError, match="not on the public internet"):
        cog.Path.validate("http://127.0.0.1:9/videos.zip").convert()


def test_a_zip_may_be_as_large_as_the_limit_says(monkeypatch, tiny_folder):
    monkeypatch.setenv("COGVIDEOX_WEIGHTS", str(tiny_folder))
    monkeypatch.setattr(training_server, "MAX_ZIP_BYTES", 3)
    prepare_server()
    path = cog.Path.validate("data:application/zip;base64,YWJj").convert()
    assert path.read_bytes() == b"abc"
    path.unlink()
    with pytest.raises(UserError, match="A file in the request has"):
        cog.Path.validate("data:application/zip;base64,YWJjZA==").convert()


def test_a_malformed_variable_fails_the_start_before_anything_is_installed(asked, monkeypatch):
    monkeypatch.setenv(outbound.VARIABLE, "nonsense")
    with pytest.raises(UserError, match="lists 'nonsense'"):
        prepare_server()
    assert asked == []
