"""The rules that Cog's static parser sets for the signature of `run`, or of a training function.

`cog build` makes the API's schema from the source of the runner's file, without running it. What it
can't read it refuses or, worse, drops without a word: a default so lost makes an input required, a
limit so lost accepts anything. The running code shows none of this, so the source is checked.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weights.errors import UserError

_INPUT_TYPES = {"str", "int", "float", "bool", "Path", "File", "Secret"}
_LIST_TYPES = {"list", "List"}
_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][+-]?\d+)?")
_LIMITS = ("ge", "le", "min_length", "max_length")
# Of these keywords the parser also follows a name to a literal at the top of the same file.
_FOLLOWED = ("default", "choices", "description")


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: the line, the input (or `return`) and what Cog makes of it."""

    line: int
    name: str
    problem: str


def check_signature(path: Path, name: str = "Runner") -> list[Violation]:
    """Every rule that a signature in `path` breaks, in source order.

    Args:
        name: of a class, for the signature of its `run`, or of a function.

    Raises:
        UserError: the file has no such function, and no such class with a `run` of its own.
    """
    source = _Source(path.read_text(encoding="utf-8"))
    signature = source.signature(name)
    if signature is None:
        raise UserError(
            f"{path} has no function {name} and no class {name} with a method run.",
            "Cog reads the signature from the file that it is told of.",
            "Write the signature out in this file.",
        )
    return [*_check_inputs(signature, source), *_check_output(signature, source)]


@dataclass(frozen=True, slots=True)
class _Signature:
    """A function and the arguments of it that are inputs: of a method all but `self`."""

    function: ast.FunctionDef | ast.AsyncFunctionDef
    inputs: list[ast.arg]


class _Source:
    """A file's syntax tree and text: the tree does not keep parentheses and quotes."""

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self._text = text
        self._lines = [line.encode() for line in text.splitlines(keepends=True)]
        self.constants = {
            target.id: statement.value
            for statement in self.tree.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }

    def signature(self, name: str) -> _Signature | None:
        """What Cog calls `name`: the method `run` of that class, or that function."""
        owner = self.class_named(name)
        if owner is None:
            function = _function_named(name, self.tree.body)
            return _Signature(function, function.args.args) if function else None
        run = _function_named("run", owner.body)
        return _Signature(run, run.args.args[1:]) if run else None

    def class_named(self, name: str) -> ast.ClassDef | None:
        classes = (s for s in self.tree.body if isinstance(s, ast.ClassDef))
        return next((found for found in classes if found.name == name), None)

    def segment(self, node: ast.expr) -> str:
        return ast.get_source_segment(self._text, node) or ""

    def in_parentheses(self, node: ast.expr) -> bool:
        """Whether a value after `=` is wrapped in parentheses of its own."""
        before = b"".join(self._lines[: node.lineno - 1])
        before += self._lines[node.lineno - 1][: node.col_offset]
        return before.rstrip().endswith(b"(")

    def literal_problem(self, node: ast.expr) -> str | None:
        """Why the parser can't read `node` as a literal; None if it can."""
        if self.in_parentheses(node):
            return "is in parentheses"
        match node:
            case ast.Constant(value=str()):
                return self._string_problem(node)
            case ast.Constant(value=None | bool()):
                return None
            case ast.Constant() | ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
                plain = _NUMBER.fullmatch(self.segment(node))
                return None if plain else "is not a plain number"
            case ast.List() | ast.Tuple() | ast.Set():
                return self._first_problem(node.elts)
            case ast.JoinedStr():
                return "is an f-string"
        return "is computed or imported"

    def _first_problem(self, nodes: list[ast.expr]) -> str | None:
        return next((p for node in nodes if (p := self.literal_problem(node))), None)

    def _string_problem(self, node: ast.Constant) -> str | None:
        segment = self.segment(node)
        tokens = tokenize.generate_tokens(io.StringIO(f"({segment})").readline)
        if sum(token.type == tokenize.STRING for token in tokens) > 1:
            return "is several strings in a row, which Cog joins with their quotes"
        if segment[0] not in "\"'r":
            return "has a prefix other than r"
        if "\\" in segment and segment[0] != "r":
            return "has an escape, which Cog does not decode"
        return None

    def followed(self, node: ast.expr) -> ast.expr:
        """`node`, or the value at the top of the file that it names."""
        if isinstance(node, ast.Name) and not self.in_parentheses(node):
            return self.constants.get(node.id, node)
        return node


def _function_named(
    name: str, body: list[ast.stmt]
) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    functions = (s for s in body if isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef))
    return next((found for found in functions if found.name == name), None)


def _check_inputs(signature: _Signature, source: _Source) -> Iterator[Violation]:
    parameters = signature.inputs
    given = signature.function.args.defaults
    defaults = [*([None] * (len(parameters) - len(given))), *given]
    for parameter, default in zip(parameters, defaults, strict=True):
        problems = [_annotation_problem(parameter.annotation)]
        if default is not None:
            problems += _default_problems(default, source)
            if _says_none(default) and not _is_optional(parameter.annotation):
                problems.append("has the default None without Optional[...]: it becomes required")
        for problem in problems:
            if problem:
                yield Violation(parameter.lineno, parameter.arg, problem)


def _annotation_problem(annotation: ast.expr | None) -> str | None:
    match annotation:
        case None:
            return "has no annotation: the build fails"
        case ast.Name(id=name) if name in _INPUT_TYPES:
            return None
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _annotation_problem(inner)
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in _LIST_TYPES:
            return _annotation_problem(inner)
        case ast.BinOp(op=ast.BitOr()):
            return "has a type with |: write Optional[...]"
    return f"has the type {ast.unparse(annotation)}, which Cog does not know: the build fails"


def _is_optional(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Optional"


def _is_input_call(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "Input"


def _says_none(default: ast.expr) -> bool:
    values: list[ast.expr] = [default]
    if isinstance(default, ast.Call):
        values = [keyword.value for keyword in default.keywords if keyword.arg == "default"]
    return any(isinstance(value, ast.Constant) and value.value is None for value in values)


def _default_problems(default: ast.expr, source: _Source) -> Iterator[str]:
    if not isinstance(default, ast.Call) or not _is_input_call(default):
        if problem := source.literal_problem(source.followed(default)):
            yield f"has a default that {problem}: the build fails"
        return
    if default.args:
        yield "has a default without `default=`, which Cog ignores: it becomes required"
    for keyword in default.keywords:
        value = source.followed(keyword.value) if keyword.arg in _FOLLOWED else keyword.value
        if problem := source.literal_problem(value):
            yield f"has {_keyword(keyword.arg)} that {problem}: {_consequence(keyword.arg)}"


def _keyword(name: str | None) -> str:
    return "arguments by **" if name is None else f"{name}="


def _consequence(name: str | None) -> str:
    if name == "default":
        return "the default is lost or garbled and the input becomes required"
    if name == "choices":
        return "the build fails"
    if name in _LIMITS:
        return "the limit is dropped"
    return "it is dropped or garbled"


def _check_output(signature: _Signature, source: _Source) -> Iterator[Violation]:
    output = signature.function.returns
    if output is None:
        yield Violation(signature.function.lineno, "return", "has no annotation: the build fails")
        return
    says_none = isinstance(output, ast.Constant) and output.value is None
    if says_none or _is_optional(output) or isinstance(output, ast.BinOp):
        problem = f"is {ast.unparse(output)}, and an output can't be empty: the build fails"
        yield Violation(output.lineno, "return", problem)
    if isinstance(output, ast.Name) and (owner := source.class_named(output.id)):
        yield from _check_model(owner)


def _check_model(model: ast.ClassDef) -> Iterator[Violation]:
    """The class of an output with several parts, or with names for them."""
    if not any(ast.unparse(base).rpartition(".")[2] == "BaseModel" for base in model.bases):
        problem = f"is {model.name}, which is no BaseModel: the build fails"
        yield Violation(model.lineno, "return", problem)
    for field in model.body:
        if isinstance(field, ast.AnnAssign) and (found := _annotation_problem(field.annotation)):
            yield Violation(field.lineno, ast.unparse(field.target), found)
