"""Print the OpenAPI schema of a predictor, or of training, after checking that Cog can read it."""

import argparse
import json
from pathlib import Path
from typing import Any

from cli.generated_table import with_table
from cli.runners import ENDPOINTS, RUNNERS, RunnerFile
from cli.signature_rules import check_signature
from weights.errors import UserError

_HEAD = ("| input | what it is | values | default |", "|---|---|---|---|")

EXAMPLES = """examples:
  cogvideox schema t2v
  cogvideox schema i2v --table
  cogvideox schema train --update docs/training.md
  cogvideox schema t2v > docs/openapi-t2v.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", choices=ENDPOINTS, help="which predictor, or training")
    parser.add_argument("--table", action="store_true", help="print the inputs as Markdown")
    parser.add_argument(
        "--update", type=Path, nargs="+", metavar="FILE", help="rewrite the table in each FILE"
    )


def input_table(endpoint: str) -> str:
    """The inputs of a predictor, or of training, as a Markdown table."""
    return "\n".join((*_HEAD, *_rows(endpoint)))


def guide_table(endpoint: str) -> str:
    """The table as our guides show it: of the second predictor only what the first has not."""
    first, *others = RUNNERS
    shown = _rows(first) if endpoint in others else []
    return "\n".join((*_HEAD, *(row for row in _rows(endpoint) if row not in shown)))


def _rows(endpoint: str) -> list[str]:
    # Only now: the runner's file is imported for its schema.
    from cli.openapi_schema import input_schema, openapi_document

    runner = ENDPOINTS[endpoint]
    document = openapi_document(runner)
    schemas = document["components"]["schemas"]
    inputs = input_schema(document, runner.mode)
    rows = []
    for name, schema in inputs["properties"].items():
        required = name in inputs.get("required", [])
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
    violations = check_signature(runner.path, runner.name)
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
    runner = ENDPOINTS[options.endpoint]
    _require_readable(runner)
    if options.update:
        name = f"inputs of {options.endpoint}"
        table = guide_table(options.endpoint)
        for guide in options.update:
            text = with_table(guide.read_text(encoding="utf-8"), name, table)
            guide.write_text(text, encoding="utf-8")
    elif options.table:
        print(input_table(options.endpoint))
    else:
        from cli.openapi_schema import openapi_document

        print(json.dumps(openapi_document(runner), indent=2, ensure_ascii=False))
    return 0
