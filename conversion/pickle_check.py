"""Plays a checkpoint's pickle through without importing, calling or building anything it names.

The opcodes and their meaning are those of `pickletools`. Played are the ones that torch.save
writes (protocol 2) and torch.load(weights_only=True) reads; any other is refused. What the file
would build is built from stand-ins, so that shapes, sizes and references are known, and refused
if need be, before torch is imported.
"""

import pickletools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from conversion.pickle_calls import ALLOWED_NAMES, CALLS, STORAGE_BYTES, Name, check_state
from conversion.pickle_nesting import check_nesting
from conversion.tensor_claims import StorageClaim, TensorClaim, claim_storage
from conversion.zip_check import Record

# A 5B model's pickle has some 200 KB and 40,000 opcodes: some 32 a tensor.
_MAX_BYTES = 16 << 20
_MAX_OPCODES = 400_000
# These calls copy data. One save has one numpy generator, which takes two of each at most.
_RARE_CALLS = frozenset(name for name in CALLS if name.startswith(("_codecs.", "numpy.")))
_MAX_RARE_CALLS = 100
# Tied weights share a storage, so that tensors may add up to more than the file.
_MAX_SHARING = 4
_SMALL = 1 << 20

_CODE = "it asks to run code or to build objects that are not tensors"


class _Machine:
    """The stack, the marks and the memo of one pickle being played."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        self.records = records
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.rare_calls = 0
        self.storages: dict[str, StorageClaim] = {}
        self.tensor_bytes = 0

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: None) -> None:
        self.below_marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below_marks.pop()
        return items

    def make_tuple(self, length: int) -> None:
        items = [self.stack.pop() for _ in range(length)]
        self.stack.append(tuple(reversed(items)))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("its pickle is damaged")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise ValueError("its pickle is damaged")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Longer numbers can be chosen to have equal hashes, and tuples take for ever to hash.
            if type(key) is not str and not (type(key) is int and abs(key) < 2**60):
                raise ValueError("it has a dict whose keys are neither names nor numbers")
            target[key] = value

    def name(self, words: str) -> None:
        path = words.replace(" ", ".", 1)
        if path not in ALLOWED_NAMES:
            raise ValueError(f"{_CODE} ({path[:80]!a})")
        self.stack.append(Name(path))

    def call(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        path = function.path if isinstance(function, Name) else ""
        if path not in CALLS or type(arguments) is not tuple:
            raise ValueError("it asks to run code: it calls what is no function of torch")
        self.rare_calls += path in _RARE_CALLS
        if self.rare_calls > _MAX_RARE_CALLS:
            raise ValueError(f"it calls {path} again and again")
        result = CALLS[path](*arguments)
        if isinstance(result, TensorClaim) and path != "torch._utils._rebuild_parameter":
            self.tensor_bytes += result.size
        self.stack.append(result)

    def build(self, _: None) -> None:
        state = self.stack.pop()
        check_state(self.stack[-1], state)

    def storage(self, _: None) -> None:
        kind = self.stack.pop()
        if type(kind) is not tuple or len(kind) != 5 or kind[0] != "storage":
            raise ValueError("it refers to something that is not a tensor's data")
        _, name, key, place, count = kind
        item_bytes = STORAGE_BYTES.get(name.path) if isinstance(name, Name) else None
        if item_bytes is None or type(place) is not str:
            raise ValueError("it refers to something that is not a tensor's data")
        claim = claim_storage(key, item_bytes, count, self.records)
        # torch keeps the first claim and applies it to the tensors of the second.
        if self.storages.setdefault(claim.key, claim) != claim:
            raise ValueError(f"it describes data/{claim.key} in two ways")
        self.stack.append(claim)


_STEPS: Mapping[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, protocol: _check_protocol(protocol),
    "MARK": _Machine.mark,
    "NONE": _Machine.push,
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "BININT": _Machine.push,
    "BININT1": _Machine.push,
    "BININT2": _Machine.push,
    "LONG1": _Machine.push,
    "BINFLOAT": _Machine.push,
    "BINUNICODE": _Machine.push,
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(
        [machine.stack.pop(-2), machine.stack.pop()],
    ),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "BINPUT": lambda machine, index: machine.memo.update({index: machine.stack[-1]}),
    "LONG_BINPUT": lambda machine, index: machine.memo.update({index: machine.stack[-1]}),
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
    "STOP": lambda machine, _: None,
}


def _check_protocol(protocol: int) -> None:
    if protocol != 2:
        raise ValueError(f"it is a pickle of protocol {protocol}; torch.save writes protocol 2")


def _operations(data: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    try:
        yield from pickletools.genops(data)
    except ValueError as error:
        raise ValueError(f"its pickle is damaged ({error})") from None


def _play(data: bytes, machine: _Machine) -> Any:
    """The stand-in for what the pickle would build."""
    for count, (operation, argument, _) in enumerate(_operations(data)):
        step = _STEPS.get(operation.name)
        if step is None:
            raise ValueError(f"{_CODE} ({operation.name})")
        if count > _MAX_OPCODES:
            raise ValueError(f"its pickle has more than {_MAX_OPCODES} steps")
        step(machine, argument)
    if len(machine.stack) != 1 or machine.below_marks:
        raise ValueError("its pickle is damaged")
    return machine.stack[0]


def check_pickle(data: bytes, records: Mapping[str, Record]) -> Any:
    """Check that a pickle makes tensors of the given records, and plain values beside them.

    Args:
        data: the pickle, `data.pkl` of a file written by torch.save.
        records: the entries of that file.

    Returns:
        What it would build, with stand-ins such as `TensorClaim` for what is not plain.

    Raises:
        ValueError: it names code, claims data that is not there, or is damaged or absurd.
    """
    machine = _Machine(records)
    try:
        with warnings.catch_warnings():
            # genops unescapes the names it reads, and warns where one has a lone backslash.
            warnings.simplefilter("ignore", DeprecationWarning)
            root = _play(data, machine)
    except (IndexError, KeyError):
        raise ValueError("its pickle is damaged") from None
    check_nesting(root)
    stored = sum(record.size for record in records.values())
    if machine.tensor_bytes > _MAX_SHARING * stored + _SMALL:
        raise ValueError(
            f"its tensors claim {machine.tensor_bytes} bytes in all, of {stored} that are stored"
        )
    return root


def check_size(record: Record) -> None:
    """Check that a pickle is not absurdly large, before it is read.

    Raises:
        ValueError: it is.
    """
    if record.size > _MAX_BYTES:
        raise ValueError(f"its pickle has {record.size} bytes, {_MAX_BYTES} are allowed")
