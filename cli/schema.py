"""Print the OpenAPI schema of a predictor, after checking that Cog's parser can read it."""

import argparse
import json
from pathlib import Path
from typing import Any

from cli.generated_table import with_table
from cli.runners import RUNNERS, RunnerFile
from cli.signature_rules import check_signature
from weights.errors import UserError
from weights.variants import Task

_HEAD = ("| input | what it is | values | default |", "|---|---|---|---|")

EXAMPLES = """examples:
  cogvideox schema t2v
  cogvideox schema i2v --table
  cogvideox schema t2v > docs/openapi-t2v.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=RUNNERS, help="which predictor")
    parser.add_argument("--table", action="store_true", help="print the inputs as Markdown")
    parser.add_argument(
        "--update", type=Path, nargs="+", metavar="FILE", help="rewrite the table in each FILE"
    )


def input_table(task: Task) -> str:
    """The inputs of a predictor as a Markdown table."""
    return "\n".join((*_HEAD, *_rows(task)))


def guide_table(task: Task) -> str:
    """The table as our guides show it: all of the first predictor's inputs, and of the others'
    those that differ from these."""
    first, *_ = RUNNERS
    shown = [] if task == first else _rows(first)
    return "\n".join((*_HEAD, *(row for row in _rows(task) if row not in shown)))


def _rows(task: Task) -> list[str]:
    # Only now: the runner's file is imported for its schema.
    from cli.openapi_schema import input_properties, openapi_document

    document = openapi_document(RUNNERS[task])
    schemas = document["components"]["schemas"]
    rows = []
    for name, schema in input_properties(document).items():
        required = name in schemas["Input"].get("required", [])
        default = "required" if required else _default(schema["default"])
        values = _values(schema, schemas.get(name, {}).get("enum"))
        rows.append(f"| `{name}` | {schema['description']} | {values} | {default} |")
    return rows


def _default(value: Any) -> str:
    if value is None or value == "":
        return "blank"
    text = json.dumps(value) if isinstance(value, bool) else str(value)
    return f"{text[:29].rstrip()}…" if len(text) > 30 else f"`{text}`"


def _values(schema: dict[str, Any], choices: list[str] | None) -> str:
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    kind = {"integer": "whole number", "number": "number", "string": "text"}.get(schema["type"])
    if schema.get("format") == "uri":
        kind = "file: URL or data URI"
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"{least} to {most}"
    if least is not None:
        return f"{kind} from {least}"
    if "maxLength" in schema:
        return f"{kind} of up to {schema['maxLength']} characters"
    return kind or "true or false"


def _require_readable(runner: RunnerFile) -> None:
    violations = check_signature(runner.path)
    if violations:
        lines = "\n".join(
            f"  {runner.path.name}:{v.line}: {v.name}: {v.problem}" for v in violations
        )
        raise UserError(
            f"{runner.path.name} breaks rules of Cog's static parser:\n{lines}\n",
            "A signature holds literals only.",
            "Correct these lines; FACTS are in cli/signature_rules.py.",
        )


def run(options: argparse.Namespace) -> int:
    runner = RUNNERS[options.task]
    _require_readable(runner)
    if options.update:
        name = f"inputs of {options.task}"
        for guide in options.update:
            text = with_table(guide.read_text(encoding="utf-8"), name, guide_table(options.task))
            guide.write_text(text, encoding="utf-8")
    elif options.table:
        print(input_table(options.task))
    else:
        from cli.openapi_schema import openapi_document

        print(json.dumps(openapi_document(runner), indent=2, ensure_ascii=False))
    return 0
