"""Print the OpenAPI schema of a predictor, after checking that Cog's parser can read it."""

import argparse
import json

from cli.runners import RUNNERS
from cli.signature_rules import check_signature
from weights.errors import UserError

EXAMPLES = """examples:
  cogvideox schema t2v
  cogvideox schema t2v > docs/openapi-t2v.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=RUNNERS, help="which predictor")


def run(options: argparse.Namespace) -> int:
    runner = RUNNERS[options.task]
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
    # Only now: the file is imported for its schema.
    from cli.openapi_schema import openapi_document

    print(json.dumps(openapi_document(runner), indent=2, ensure_ascii=False))
    return 0
