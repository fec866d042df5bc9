"""The schema is what Cog itself reads from the class, and the committed snapshot is of today."""

import json

import pytest
from cog._inspector import create_predictor

from cli.main import main
from cli.openapi_schema import input_properties, openapi_document
from cli.runners import ROOT, RUNNERS, RunnerFile

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


@pytest.mark.parametrize("task", RUNNERS)
def test_the_snapshot_is_of_today(task, capsys):
    assert main(["schema", task]) == 0
    snapshot = (ROOT / "docs" / f"openapi-{task}.json").read_text(encoding="utf-8")
    assert capsys.readouterr().out == snapshot, "run `make docs`"


@pytest.mark.parametrize("task", RUNNERS)
def test_cog_reads_the_same_from_the_class(task):
    inputs = create_predictor(RUNNERS[task].path.stem, "Runner").inputs
    properties = input_properties(openapi_document(RUNNERS[task]))
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


def test_every_reference_leads_somewhere():
    document = openapi_document(RUNNERS["t2v"])
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]
