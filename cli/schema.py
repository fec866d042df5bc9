"""Print the OpenAPI schema of a predictor, after checking that Cog's parser can read it."""

import argparse
import json
from pathlib import Path
from typing import Any

from cli.generated_table import with_table
from cli.runners import RUNNERS, RunnerFile
from cli.signature_rules import check_signature
from weights.errors import UserError

EXAMPLES = """examples:
  cogvideox schema t2v
  cogvideox schema i2v --table
  cogvideox schema t2v > docs/openapi-t2v.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=RUNNERS, help="which predictor")
    parser.add_argument("--table", action="store_true", help="print the inputs as Markdown")
    parser.add_argument("--update", type=Path, metavar="FILE", help="rewrite the table in FILE")


def input_table(document: dict[str, Any]) -> str:
    """The inputs of an OpenAPI document of Cog's as a Markdown table."""
    from cli.openapi_schema import input_properties

    schemas = document["components"]["schemas"]
    rows = ["| input | what it is | values | default |", "|---|---|---|---|"]
    for name, schema in input_properties(document).items():
        required = name in schemas["Input"].get("required", [])
        default = "required" if required else _default(schema["default"])
        values = _values(schema, schemas.get(name, {}).get("enum"))
        rows.append(f"| `{name}` | {schema['description']} | {values} | {default} |")
    return "\n".join(rows)


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
    # Only now: the file is imported for its schema.
    from cli.openapi_schema import openapi_document

    document = openapi_document(runner)
    if options.update:
        text = options.update.read_text(encoding="utf-8")
        table = with_table(text, f"inputs of {options.task}", input_table(document))
        options.update.write_text(table, encoding="utf-8")
    elif options.table:
        print(input_table(document))
    else:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    return 0
