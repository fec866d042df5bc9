"""Cog's literal-only rules: our runners keep them, and each way to break one is caught."""

from pathlib import Path

import pytest

from cli.runners import RUNNERS
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
class Runner(BaseRunner):
"""


def violations(tmp_path: Path, signature: str, output: str = " -> Path") -> list[str]:
    file = tmp_path / "runner.py"
    file.write_text(f"{HEADER}    def run(self, {signature}){output}:\n        ...\n")
    return [violation.problem for violation in check_signature(file)]


@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
def test_our_runners_keep_the_rules(runner):
    assert check_signature(runner.path, runner.class_name) == []


@pytest.mark.parametrize(
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
def test_literals_pass(tmp_path, signature):
    assert violations(tmp_path, signature) == []


@pytest.mark.parametrize(
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
def test_each_broken_rule_is_caught(tmp_path, signature, problem):
    assert any(problem in found for found in violations(tmp_path, signature))


@pytest.mark.parametrize("output", ["", " -> None", " -> Optional[Path]", " -> Path | None"])
def test_each_impossible_output_is_caught(tmp_path, output):
    assert len(violations(tmp_path, "x: str", output)) == 1


def test_an_inherited_run_is_refused(tmp_path):
    file = tmp_path / "runner.py"
    file.write_text("from base import Base\nclass Runner(Base):\n    pass\n")
    with pytest.raises(UserError, match="Write the signature out in this file"):
        check_signature(file)
