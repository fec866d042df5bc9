"""The names a checkpoint's pickle may use, and what calling each of them gives.

Nothing here is torch's or numpy's: a call checks its arguments and gives a stand-in. The names are
those that real saves need, a part of what torch.load(weights_only=True) itself allows
(`torch/_weights_only_unpickler.py`). Left out are the ones that can be told to fill memory
(`builtins.bytearray`, `torch.Tensor`, …) and that no checkpoint of SAT or DeepSpeed holds.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from conversion.tensor_claims import TensorClaim, are_counts, claim_tensor

STORAGE_BYTES = {
    "torch.BoolStorage": 1,
    "torch.ByteStorage": 1,
    "torch.CharStorage": 1,
    "torch.ShortStorage": 2,
    "torch.IntStorage": 4,
    "torch.LongStorage": 8,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.FloatStorage": 4,
    "torch.DoubleStorage": 8,
    "torch.ComplexFloatStorage": 8,
    "torch.ComplexDoubleStorage": 16,
    "torch.storage.UntypedStorage": 1,
}

_DTYPE_BYTES = {
    "torch.bool": 1,
    "torch.uint8": 1,
    "torch.uint16": 2,
    "torch.uint32": 4,
    "torch.uint64": 8,
    "torch.int8": 1,
    "torch.int16": 2,
    "torch.int32": 4,
    "torch.int64": 8,
    "torch.float8_e4m3fn": 1,
    "torch.float8_e4m3fnuz": 1,
    "torch.float8_e5m2": 1,
    "torch.float8_e5m2fnuz": 1,
    "torch.float8_e8m0fnu": 1,
    "torch.float16": 2,
    "torch.bfloat16": 2,
    "torch.float32": 4,
    "torch.float64": 8,
    "torch.complex64": 8,
    "torch.complex128": 16,
}

# The state of numpy's generator is 624 words, encoded as text by protocol 2.
_MAX_ENCODED = 64 << 10


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A function or class that the pickle names. It is not imported."""

    path: str


@dataclass(frozen=True, slots=True, eq=False)
class EncodedBytes:
    """Bytes that the pickle spells as text."""

    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """A torch.device."""


@dataclass(frozen=True, slots=True, eq=False)
class NumpyDtype:
    """The dtype of the words of numpy's generator."""


@dataclass(frozen=True, slots=True, eq=False)
class NumpyArray:
    """The words of numpy's generator."""


def _require(condition: bool, name: str) -> None:
    if not condition:
        raise ValueError(f"it makes {name} in a way that no checkpoint does")


def _ordered_dict(*arguments: Any) -> OrderedDict[Any, Any]:
    _require(not arguments, "a dict")
    return OrderedDict()


def _tensor_v2(*arguments: Any) -> TensorClaim:
    _require(len(arguments) == 6 or (len(arguments) == 7 and arguments[6] is None), "a tensor")
    storage, offset, shape, stride, needs_grad, hooks = arguments[:6]
    _require(type(needs_grad) is bool and type(hooks) is OrderedDict and not hooks, "a tensor")
    return claim_tensor(storage, offset, shape, stride)


def _tensor_v3(*arguments: Any) -> TensorClaim:
    _require(len(arguments) == 7 or (len(arguments) == 8 and arguments[7] is None), "a tensor")
    storage, offset, shape, stride, needs_grad, hooks, dtype = arguments[:7]
    _require(type(needs_grad) is bool and type(hooks) is OrderedDict and not hooks, "a tensor")
    size = _DTYPE_BYTES.get(dtype.path) if isinstance(dtype, Name) else None
    _require(size is not None, "a tensor")
    return claim_tensor(storage, offset, shape, stride, size)


def _parameter(*arguments: Any) -> TensorClaim:
    _require(len(arguments) == 3, "a parameter")
    tensor, needs_grad, hooks = arguments
    _require(type(needs_grad) is bool and type(hooks) is OrderedDict and not hooks, "a parameter")
    if not isinstance(tensor, TensorClaim):
        raise ValueError("a parameter has no tensor")
    return tensor


def _size(*arguments: Any) -> tuple[int, ...]:
    _require(len(arguments) == 1 and are_counts(arguments[0]), "a torch.Size")
    return tuple(arguments[0])


def _device(*arguments: Any) -> Device:
    _require(tuple(map(type, arguments)) in ((str,), (str, int)), "a torch.device")
    return Device()


def _encode(*arguments: Any) -> EncodedBytes:
    _require(len(arguments) == 2 and arguments[1] == "latin1", "bytes")
    text = arguments[0]
    _require(type(text) is str and len(text) <= _MAX_ENCODED, "bytes")
    _require(max(text, default="") <= "\xff", "bytes")
    return EncodedBytes(len(text))


def _numpy_array(*arguments: Any) -> NumpyArray:
    kind, shape, code = arguments if len(arguments) == 3 else (None, None, None)
    _require(isinstance(kind, Name) and kind.path == "numpy.ndarray", "a numpy array")
    _require(shape == (0,) and isinstance(code, EncodedBytes) and code.size == 1, "a numpy array")
    return NumpyArray()


def _numpy_dtype(*arguments: Any) -> NumpyDtype:
    _require(arguments == ("u4", False, True), "a numpy.dtype")
    return NumpyDtype()


CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "_codecs.encode": _encode,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy.dtype": _numpy_dtype,
}

ALLOWED_NAMES = CALLS.keys() | STORAGE_BYTES.keys() | _DTYPE_BYTES.keys() | {"numpy.ndarray"}


def check_state(instance: Any, state: Any) -> None:
    """Check what a pickle sets on an object after it was made.

    Raises:
        ValueError: it is not what torch, DeepSpeed and numpy save.
    """
    if type(instance) is OrderedDict:
        # nn.Module.state_dict() hangs the versions of its modules on the dict.
        _require(type(state) is dict and state.keys() <= {"_metadata"}, "the state of a dict")
    elif isinstance(instance, NumpyDtype):
        _require(state == (3, "<", None, None, None, -1, -1, 0), "the state of a numpy.dtype")
    else:
        _require(isinstance(instance, NumpyArray), "the state of an object")
        _require(type(state) is tuple and len(state) == 5, "the state of a numpy array")
        version, shape, dtype, fortran, words = state
        _require((version, fortran) == (1, False), "the state of a numpy array")
        _require(isinstance(dtype, NumpyDtype), "the state of a numpy array")
        _require(isinstance(words, EncodedBytes), "the state of a numpy array")
        _require(shape == (words.size / 4,), "the state of a numpy array")
