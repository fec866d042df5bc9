"""Cog's literal-only rules: ours keep them, and each way to break one is caught."""

from pathlib import Path

import pytest

from cli.runners import ENDPOINTS
from cli.signature_rules import check_signature
from weights.errors import UserError

HEADER = """
from enum import Enum
from typing import List, Literal, Optional
from cog import BaseRunner, Input, Path
import cog
from somewhere import IMPORTED
TEXT = "a literal"
CHOICES = ["a", "b"]
LIMIT = 3
JOINED = "a " "b"
class Colour(Enum):
    RED = "red"
"""


def violations(tmp_path: Path, signature: str, output: str = " -> Path") -> list[str]:
    """Of a runner's method."""
    method = f"    def run(self, {signature}){output}:\n        ...\n"
    file = tmp_path / "runner.py"
    file.write_text(f"{HEADER}class Runner(BaseRunner):\n{method}")
    return [violation.problem for violation in check_signature(file)]


def function_violations(
    tmp_path: Path, signature: str, output: str = " -> Path", before: str = ""
) -> list[str]:
    """Of a function that trains."""
    file = tmp_path / "train.py"
    file.write_text(f"{HEADER}{before}def train({signature}){output}:\n    ...\n")
    return [violation.problem for violation in check_signature(file, "train")]


@pytest.mark.parametrize("runner", ENDPOINTS.values(), ids=ENDPOINTS)
def test_ours_keep_the_rules(runner):
    assert check_signature(runner.path, runner.name) == []


LITERALS = pytest.mark.parametrize(
    "signature",
    [
        "x: str",
        "x: str = 'd'",
        "x: str = TEXT",
        "x: str = Input(default=TEXT, description=TEXT)",
        "x: str = Input(default='a', choices=CHOICES)",
        "x: str = Input(default='a', choices=['a', 'b'])",
        "x: int = Input(default=-1, ge=-2, le=1e3)",
        "x: float = Input(default=0.5, description='it\"s')",
        "x: Optional[int] = Input(default=None, description=r'\\d')",
        "x: List[str] = Input(default=['a'])",
        "x: Path = Input(description='one')",
    ],
)
BROKEN_RULES = pytest.mark.parametrize(
    ("signature", "problem"),
    [
        ("x: str = Input(default='a', choices=IMPORTED)", "choices= that is computed or imported"),
        ("x: str = Input(default='a', choices=list(CHOICES))", "choices= that is computed"),
        ("x: str = IMPORTED", "default that is computed or imported"),
        ("x: str = cog.Input(default='a')", "default that is computed or imported"),
        ("x: str = Input(default=IMPORTED)", "default= that is computed or imported"),
        ("x: int = Input(default=7 * 7)", "default= that is computed"),
        ("x: str = Input(default=('d'))", "default= that is in parentheses"),
        ("x: str = Input(default=(\n'd'))", "default= that is in parentheses"),
        ("x: str = Input(default='a' 'b')", "default= that is several strings"),
        ("x: str = Input(default=JOINED)", "default= that is several strings"),
        ("x: str = Input('d')", "without `default=`"),
        ("x: int = Input(default=1, ge=LIMIT)", "ge= that is computed"),
        ("x: int = Input(default=1, le=2 + 3)", "le= that is computed"),
        ("x: int = Input(default=1, le=1_000)", "le= that is not a plain number"),
        ("x: str = Input(default='a', max_length=LIMIT)", "max_length= that is computed"),
        ("x: str = Input(default='a', regex=TEXT)", "regex= that is computed"),
        ("x: str = Input(default='a', description='b' 'c')", "description= that is several"),
        ("x: str = Input(default='a', description=('b'))", "description= that is in parentheses"),
        ("x: str = Input(default='a', description=f'{LIMIT}')", "description= that is an f-string"),
        ("x: str = Input(default='a', description='b' + 'c')", "description= that is computed"),
        ("x: str = Input(default='a', description='b\\n')", "description= that has an escape"),
        ("x: str = Input(default='a', description=u'b')", "description= that has a prefix"),
        ("x: str = Input(**IMPORTED)", "arguments by **"),
        ("x: int = Input(default=None)", "without Optional"),
        ("x: Path = Input(default=None)", "without Optional"),
        ("x: int = None", "without Optional"),
        ("x: Literal['a', 'b'] = Input(default='a')", "has the type Literal"),
        ("x: Colour = Input(default='red')", "has the type Colour"),
        ("x: int | None = Input(default=None)", "has a type with |"),
        ("x=Input(default='a')", "has no annotation"),
    ],
)
IMPOSSIBLE_OUTPUTS = pytest.mark.parametrize(
    "output", ["", " -> None", " -> Optional[Path]", " -> Path | None", " -> Colour"]
)


@LITERALS
def test_literals_pass(tmp_path, signature):
    assert violations(tmp_path, signature) == []
    assert function_violations(tmp_path, signature) == []


@BROKEN_RULES
def test_each_broken_rule_is_caught(tmp_path, signature, problem):
    assert any(problem in found for found in violations(tmp_path, signature))
    assert any(problem in found for found in function_violations(tmp_path, signature))


@IMPOSSIBLE_OUTPUTS
def test_each_impossible_output_is_caught(tmp_path, output):
    assert len(violations(tmp_path, "x: str", output)) == 1
    assert len(function_violations(tmp_path, "x: str", output)) == 1


def test_the_first_input_of_a_function_is_checked_too(tmp_path):
    assert function_violations(tmp_path, "x, y: str") == ["has no annotation: the build fails"]


@pytest.mark.parametrize(
    ("field", "problems"),
    [
        ("weights: Path", []),
        ("weights: Optional[List[Path]]", []),
        ("weights: Colour", ["has the type Colour, which Cog does not know: the build fails"]),
        ("weights: Path | None", ["has a type with |: write Optional[...]"]),
    ],
)
def test_the_parts_of_an_output_have_types_that_cog_knows(tmp_path, field, problems):
    model = f"class Output(cog.BaseModel):\n    {field}\n"
    assert function_violations(tmp_path, "x: str", " -> Output", before=model) == problems


def test_an_inherited_run_is_refused(tmp_path):
    file = tmp_path / "runner.py"
    file.write_text("from base import Base\nclass Runner(Base):\n    pass\n")
    with pytest.raises(UserError, match="Write the signature out in this file"):
        check_signature(file)


def test_a_function_of_another_name_is_refused(tmp_path):
    file = tmp_path / "train.py"
    file.write_text("def fit(x: str) -> str: ...\n")
    with pytest.raises(UserError, match=r"no function train and no class train with a method run"):
        check_signature(file, "train")
