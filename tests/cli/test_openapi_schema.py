"""The schema is what Cog itself reads from the class, and the committed snapshot is of today."""

import json

import pytest
from cog._inspector import create_predictor

from cli.main import main
from cli.openapi_schema import input_properties, input_schema, openapi_document
from cli.runners import ENDPOINTS, ROOT, RUNNERS, TRAINER, RunnerFile

RUNNER = """
from typing import Optional
from cog import BaseRunner, Input, Path
class Runner(BaseRunner):
    def run(
        self,
        image: Path,
        mode: str = Input(default="fast", choices=["fast", "good"], description="How."),
        scale: float = Input(default=6.0, ge=0.5, le=20.0),
        flag: bool = False,
        name: Optional[str] = Input(default=None, min_length=1, max_length=9, regex="^a"),
    ) -> str: ...
"""


CHOICES = """
from cog import BaseRunner, Input
class Runner(BaseRunner):
    def run(
        self,
        mode: str = Input(default="fast", choices=["fast", "good"]),
        count: int = Input(default=1, choices=[1, 2], description="How many."),
    ) -> str: ...
"""


def test_an_input_with_choices_has_their_type(tmp_path):
    """The document says it elsewhere than the rest of the input."""
    (tmp_path / "runner.py").write_text(CHOICES)
    properties = input_properties(openapi_document(RunnerFile(tmp_path / "runner.py")))
    assert properties["mode"]["type"] == "string"
    assert properties["count"]["type"] == "integer"
    assert properties["count"]["description"] == "How many."
    assert "description" not in properties["mode"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_snapshot_is_of_today(endpoint, capsys):
    assert main(["schema", endpoint]) == 0
    snapshot = (ROOT / "docs" / f"openapi-{endpoint}.json").read_text(encoding="utf-8")
    assert capsys.readouterr().out == snapshot, "run `make docs`"


@pytest.mark.parametrize("runner", ENDPOINTS.values(), ids=ENDPOINTS)
def test_cog_reads_the_same_from_the_code(runner, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    inputs = create_predictor(runner.path.stem, runner.name).inputs
    properties = input_properties(openapi_document(runner), runner.mode)
    assert list(properties) == list(inputs)
    for name, schema in properties.items():
        field = inputs[name]
        assert schema["x-order"] == field.order
        assert schema.get("default") == field.default
        assert schema.get("minimum") == field.ge
        assert schema.get("maximum") == field.le
        assert schema["description"] == field.description


def test_every_kind_of_input_is_written_as_cog_writes_it(tmp_path):
    (tmp_path / "runner.py").write_text(RUNNER)
    schemas = openapi_document(RunnerFile(tmp_path / "runner.py"))["components"]["schemas"]
    assert schemas["Input"] == {
        "title": "Input",
        "type": "object",
        "required": ["image"],
        "properties": {
            "image": {"x-order": 0, "title": "Image", "type": "string", "format": "uri"},
            "mode": {
                "x-order": 1,
                "allOf": [{"$ref": "#/components/schemas/mode"}],
                "default": "fast",
                "description": "How.",
            },
            "scale": {
                "x-order": 2,
                "title": "Scale",
                "type": "number",
                "default": 6,
                "minimum": 0.5,
                "maximum": 20,
            },
            "flag": {"x-order": 3, "title": "Flag", "type": "boolean", "default": False},
            "name": {
                "x-order": 4,
                "title": "Name",
                "type": "string",
                "nullable": True,
                "default": None,
                "minLength": 1,
                "maxLength": 9,
                "pattern": "^a",
            },
        },
    }
    assert schemas["mode"]["enum"] == ["fast", "good"]
    assert schemas["Output"] == {"title": "Output", "type": "string"}


TRAINING = """
from typing import Optional
from cog import BaseModel, Path
class TrainingOutput(BaseModel):
    weights: Path
    note: Optional[str]
def train(videos: Path, steps: int = 3) -> TrainingOutput: ...
"""


def test_a_training_is_written_as_cog_writes_it(tmp_path):
    (tmp_path / "trainer.py").write_text(TRAINING)
    document = openapi_document(RunnerFile(tmp_path / "trainer.py", "train", "train"))
    schemas = document["components"]["schemas"]
    assert schemas["TrainingInput"] == {
        "title": "TrainingInput",
        "type": "object",
        "required": ["videos"],
        "properties": {
            "videos": {"x-order": 0, "title": "Videos", "type": "string", "format": "uri"},
            "steps": {"x-order": 1, "title": "Steps", "type": "integer", "default": 3},
        },
    }
    assert schemas["TrainingOutput"] == {
        "title": "Output",
        "type": "object",
        "required": ["weights"],
        "properties": {
            "weights": {"title": "Weights", "type": "string", "format": "uri"},
            "note": {"title": "Note", "type": "string", "nullable": True},
        },
    }
    assert {"TrainingRequest", "TrainingResponse"} <= schemas.keys()
    assert list(document["paths"]) == [
        "/",
        "/health-check",
        "/trainings",
        "/trainings/{training_id}/cancel",
    ]
    post = document["paths"]["/trainings"]["post"]
    assert (post["summary"], post["operationId"]) == ("Train", "train_trainings_post")
    cancel = document["paths"]["/trainings/{training_id}/cancel"]["post"]
    assert cancel["operationId"] == "cancel_trainings__training_id__cancel_post"
    assert cancel["parameters"][0]["schema"]["title"] == "Training Id"


@pytest.mark.parametrize("task", RUNNERS)
def test_cog_can_join_what_predicts_and_what_trains(task):
    """It keeps the predictor's where both documents of an image have one."""
    predict, train = openapi_document(RUNNERS[task]), openapi_document(TRAINER)
    for key in ("paths", "components"):
        mine, others = predict[key], train[key]
        if key == "components":
            mine, others = mine["schemas"], others["schemas"]
        assert {name: mine[name] for name in mine.keys() & others.keys()} == {
            name: others[name] for name in mine.keys() & others.keys()
        }
    assert input_schema(train, "train")["title"] == "TrainingInput"
    assert input_schema(predict)["title"] == "Input"


@pytest.mark.parametrize("runner", ENDPOINTS.values(), ids=ENDPOINTS)
def test_every_reference_leads_somewhere(runner):
    document = openapi_document(runner)
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]
