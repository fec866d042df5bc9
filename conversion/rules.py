"""The conversion engine: a table of rules becomes a plan in either direction.

A rule says how one tensor of the source (SAT) is spread over tensors of the target (diffusers).
Everything SAT does to a tensor is a regrouping of equal chunks of dimension 0, so one form covers
renames, splits and interleavings, and the inverse needs no table of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from weights.errors import UserError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Spreads the `chunks` equal parts of `source` (along dimension 0) over `targets`.

    `targets` gives, for each target tensor, the chunks it is made of, in order. Between them they
    hold every chunk exactly once. `shape` is the shape that `source` must have.
    """

    source: str
    shape: Shape
    targets: tuple[tuple[str, tuple[int, ...]], ...]
    chunks: int = 1

    def target_shape(self, chunk_count: int) -> Shape:
        return (self.shape[0] // self.chunks * chunk_count, *self.shape[1:])


@dataclass(frozen=True, slots=True)
class Drop:
    """Source tensors (a glob pattern) that the target has no place for, present or not."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows `start` to `stop` of the tensor `name` of the file that is read."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor to write: `pieces` one after the other along dimension 0."""

    name: str
    shape: Shape
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, and the names of what was read and has no place there."""

    tensors: tuple[PlannedTensor, ...]
    left_out: tuple[str, ...]


def rename(source: str, target: str, *shape: int) -> Rule:
    return Rule(source, shape, ((target, (0,)),))


def split(source: str, targets: Sequence[str], *shape: int) -> Rule:
    return Rule(source, shape, tuple((t, (i,)) for i, t in enumerate(targets)), len(targets))


def regroup(source: str, targets: Mapping[str, tuple[int, ...]], *shape: int) -> Rule:
    return Rule(source, shape, tuple(targets.items()), sum(map(len, targets.values())))


def _joined(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Neighbouring pieces of the same tensor as one, so that a rename copies in one go."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].name == piece.name and joined[-1].stop == piece.start:
            joined[-1] = Piece(piece.name, joined[-1].start, piece.stop)
        else:
            joined.append(piece)
    return tuple(joined)


def _forward(rule: Rule) -> list[PlannedTensor]:
    rows = rule.shape[0] // rule.chunks
    return [
        PlannedTensor(
            target,
            rule.target_shape(len(chunks)),
            _joined(Piece(rule.source, c * rows, (c + 1) * rows) for c in chunks),
        )
        for target, chunks in rule.targets
    ]


def _inverse(rule: Rule) -> list[PlannedTensor]:
    rows = rule.shape[0] // rule.chunks
    place = {
        chunk: Piece(target, position * rows, (position + 1) * rows)
        for target, chunks in rule.targets
        for position, chunk in enumerate(chunks)
    }
    pieces = _joined(place[chunk] for chunk in range(rule.chunks))
    return [PlannedTensor(rule.source, rule.shape, pieces)]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _check(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], dropped: Sequence[str], what: str
) -> None:
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected and name not in dropped]
    misshapen = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != shape
    ]
    faults = [
        f"{text}: {_listed(names)}"
        for text, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of the wrong shape", misshapen),
        )
        if names
    ]
    if faults:
        raise UserError(
            f"The {what} does not hold the tensors of this model ({'; '.join(faults)}).",
            f"Exactly {len(expected)} tensors are expected, each converted once.",
            "Check that the file is complete and belongs to this model.",
        )


def _check_table(rules: Sequence[Rule]) -> None:
    """A table that reads or writes a tensor twice is a defect of ours, not of the input."""
    sources = [rule.source for rule in rules]
    targets = [target for rule in rules for target, _ in rule.targets]
    assert len(set(sources)) == len(sources), "a source tensor has two rules"
    assert len(set(targets)) == len(targets), "a target tensor is written twice"
    for rule in rules:
        assert rule.shape[0] % rule.chunks == 0, f"{rule.source} has no {rule.chunks} equal chunks"
        chunks = sorted(chunk for _, group in rule.targets for chunk in group)
        assert chunks == list(range(rule.chunks)), f"{rule.source} loses or repeats a chunk"


def source_shapes(rules: Iterable[Rule | Drop]) -> dict[str, Shape]:
    """Names and shapes of the source tensors that the table reads."""
    return {rule.source: rule.shape for rule in rules if isinstance(rule, Rule)}


def target_shapes(rules: Iterable[Rule | Drop]) -> dict[str, Shape]:
    """Names and shapes of the target tensors that the table writes."""
    return {
        target: rule.target_shape(len(chunks))
        for rule in rules
        if isinstance(rule, Rule)
        for target, chunks in rule.targets
    }


def plan_forward(table: Sequence[Rule | Drop], found: Mapping[str, Shape], what: str) -> Plan:
    """Plan source → target for the tensors `found`.

    Args:
        table: the rules of one model.
        found: names and shapes of the tensors in the file, prefix removed.
        what: how to call the file in a message.

    Raises:
        UserError: a tensor is missing, unknown or of another shape; it names them.
    """
    rules = [rule for rule in table if isinstance(rule, Rule)]
    _check_table(rules)
    patterns = [rule.pattern for rule in table if isinstance(rule, Drop)]
    dropped = [name for name in found if any(fnmatchcase(name, p) for p in patterns)]
    _check(source_shapes(rules), found, dropped, what)
    return Plan(tuple(t for rule in rules for t in _forward(rule)), tuple(dropped))


def plan_inverse(table: Sequence[Rule | Drop], found: Mapping[str, Shape], what: str) -> Plan:
    """Plan target → source for the tensors `found`; arguments and errors as in `plan_forward`."""
    rules = [rule for rule in table if isinstance(rule, Rule)]
    _check_table(rules)
    _check(target_shapes(rules), found, (), what)
    return Plan(tuple(t for rule in rules for t in _inverse(rule)), ())
