"""Pickles that run code, import, fill memory, never end, or lie about tensors.

They are assembled from opcodes (see the module `pickletools`), since most of them are what no
pickler writes.
"""

import gzip
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

from forged_zip import Chunk, Entry, Hole, forge, torch_file

# The shortest whole pickle that is fine: {"module": {"a": a tensor of 4 floats}}.
_HOOKS = b"ccollections\nOrderedDict\n)R"
_M61 = 2**61 - 1  # numbers that are multiples of it all have the hash 0


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = pickle.encode_long(value)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", count: int = 4, kind: str = "FloatStorage") -> bytes:
    name = b"c" + kind.rpartition(".")[0].encode() + b"\n" if "." in kind else b"ctorch\n"
    name += kind.rpartition(".")[2].encode() + b"\n"
    return b"(" + text("storage") + name + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(shape=(4,), stride=(1,), offset=0, data: bytes | None = None) -> bytes:
    view = number(offset) + numbers(shape) + numbers(stride) + b"\x89" + _HOOKS
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + (data or storage()) + view + b"tR"


def whole(*items: bytes, name: str = "a", first: bytes | None = None) -> bytes:
    """A pickled checkpoint; `items` come beside the state dict, as values of the outer dict."""
    inner = b"}" + text(name) + (tensor() if first is None else first) + b"s"
    beside = b"".join(text(f"other{i}") + item + b"s" for i, item in enumerate(items))
    return b"\x80\x02}" + text("module") + inner + b"s" + beside + b"."


def running(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Pickles that run code, or import it. Those that succeed touch a file of their own."""

    def touch(name: str) -> bytes:
        return text(f"touch {canary / name}")

    def code(name: str) -> bytes:
        return text(f"open({str(canary / name)!r}, 'w').close()")

    yield "reduce-os-system", whole(b"cos\nsystem\n" + touch("os-system") + b"\x85R")
    yield "reduce-posix-system", whole(b"cposix\nsystem\n" + touch("posix") + b"\x85R")
    yield "reduce-eval", whole(b"c__builtin__\neval\n" + code("eval") + b"\x85R")
    yield "reduce-exec", whole(b"cbuiltins\nexec\n" + code("exec") + b"\x85R")
    yield "inst", whole(b"(" + touch("inst") + b"ios\nsystem\n")
    yield "obj", whole(b"(cos\nsystem\n" + touch("obj") + b"o")

    def mapped(name: str) -> bytes:  # bytes(map(os.system, [command])) runs the command
        lazy = b"cbuiltins\nmap\ncos\nsystem\n(" + touch(name) + b"l\x86\x81"
        return b"cbuiltins\nbytes\n" + lazy + b"\x85"

    yield "newobj", whole(mapped("newobj") + b"\x81")
    yield "newobj-ex", whole(mapped("newobj-ex") + b"}\x92")
    yield "stack-global", whole(text("os") + text("system") + b"\x93" + touch("stack") + b"\x85R")
    dotted = b"cbuiltins\ngetattr\ncos\n__dict__\n" + text("get") + b"\x86R"
    yield "getattr-chain", whole(dotted + text("system") + b"\x85R" + touch("chain") + b"\x85R")
    yield "extension-registry", whole(b"\x82\x01")
    partial = b"cfunctools\npartial\n(cos\nsystem\ntR}(N(" + touch("state") + b"tNNtb"
    yield "build-setstate", whole(partial)
    yield "import-side-effect", whole(b"ccanary_module\nANYTHING\n")
    yield "import-by-escapes", whole(b"c\\x6fs\nsystem\n" + touch("escapes") + b"\x85R")
    load = b"ctorch.serialization\nload\n" + text(str(canary / "never.pt")) + b"\x85R"
    yield "torch-load-again", whole(load)
    yield "call-of-a-value", whole(text("os.system") + touch("value") + b"\x85R")
    yield "run-before-stop", b"\x80\x02cos\nsystem\n" + touch("before") + b"\x85R0" + whole()[2:]
    encode = b"c_codecs\nencode\n" + text("b") + text("latin1") + b"\x86R"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\n" + number(0) + b"\x85"
    yield "numpy-of-a-function", whole(array + encode + b"\x87R")


def _exhausting() -> Iterator[tuple[str, bytes]]:
    """Pickles that need far more time, memory or stack than their size."""
    yield "bytearray-of-a-tebibyte", whole(b"cbuiltins\nbytearray\n" + number(2**40) + b"\x85R")
    yield "tensor-of-a-tebibyte", whole(b"ctorch\nTensor\n" + number(2**40) + b"\x85R")
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(2**40) + b"\x85"
    encode = b"c_codecs\nencode\n" + text("b") + text("latin1") + b"\x86R"
    yield "numpy-of-a-tebibyte", whole(array + encode + b"\x87R")
    yield "deep-tuples", whole(b")" + b"\x85" * 200_000)
    yield "deep-lists", whole(b"]" * 150_000 + b"a" * 149_999)
    yield "deep-marks", whole(b"(" * 200_000 + b"t" * 200_000)
    yield "endless-opcodes", whole(b"(" + b"N" * 10_000_000 + b"t")
    pair = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(90))
    yield "memo-bomb-of-tuples", whole(b")" + pair)
    yield "memo-bomb-as-key", whole(b"})" + pair + b"Ns")
    lists = b"".join(
        b"q" + bytes([i]) + b"](h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(90)
    )
    yield "memo-bomb-of-lists", whole(b"(]" + lists + b"t")
    yield "list-in-itself", whole(b"]q\x01h\x01a")
    yield "dict-in-itself", whole(b"}q\x01" + text("me") + b"h\x01s")
    yield "loop-of-two", whole(b"]q\x01]q\x02h\x01aa")
    colliding = b"".join(number(i * _M61) + b"N" for i in range(1, 100_000))
    yield "colliding-keys", whole(b"}(" + colliding + b"u")
    word = text("x" * 60_000) + b"q\x01" + text("latin1") + b"q\x02"
    again = b"c_codecs\nencode\nq\x03" + b"h\x03h\x01h\x02\x86R" * 50_000
    yield "copies-of-one-string", whole(b"(" + word + again + b"t")
    squeezed = b"c_codecs\nencode\n" + text("x" * 1000) + text("bz2") + b"\x86R"
    yield "codec-that-computes", whole(squeezed)
    yield "long-of-two-gigabytes", whole(b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x")
    yield "string-of-four-gigabytes", whole(b"X" + struct.pack("<I", 2**32 - 1) + b"x")
    yield "bytearray8", whole(b"\x96" + struct.pack("<Q", 2**62))
    yield (
        "memo-at-the-last-index",
        whole(b"Nr" + struct.pack("<I", 2**32 - 1) + b"j\x00\x00\x00\x01"),
    )
    yield "many-tensors-of-one-storage", _shared(3_000)


def _shared(count: int) -> bytes:
    big = storage("0", 1 << 20)
    named = b"".join(text(f"t{i}") + tensor((1 << 20,), (1,), data=big) for i in range(count))
    return b"\x80\x02}(" + named + b"u."


def _lying() -> Iterator[tuple[str, bytes]]:
    """Pickles whose tensors are not in the file."""
    for name, shape, stride, offset in (
        ("shape-of-2-62", (2**62,), (1,), 0),
        ("shapes-that-overflow", (2**32, 2**32), (0, 0), 0),
        ("shape-beyond-64-bits", (2**100,), (1,), 0),
        ("shape-negative", (-4,), (1,), 0),
        ("shape-with-a-hole", (0, 2**62), (1, 1), 0),
        ("shape-larger-than-the-storage", (5,), (1,), 0),
        ("stride-of-zero", (1_000_000,), (0,), 0),
        ("stride-beyond-the-storage", (2,), (2**40,), 0),
        ("stride-negative", (4,), (-1,), 3),
        ("stride-missing", (2, 2), (2,), 0),
        ("offset-beyond-the-storage", (1,), (1,), 4),
        ("offset-negative", (1,), (1,), -1),
        ("offset-huge", (1,), (1,), 2**63),
        ("dimensions-by-the-hundred", (1,) * 200, (1,) * 200, 0),
    ):
        yield name, whole(first=tensor(shape, stride, offset))
    for name, data in (
        ("storage-larger-than-its-record", storage(count=2**40)),
        ("storage-slightly-larger", storage(count=5)),
        ("storage-negative", storage(count=-1)),
        ("storage-missing", storage("7")),
        ("storage-path", storage("../../../etc/passwd")),
        ("storage-of-an-unknown-kind", storage(kind="QInt8Storage")),
        ("storage-on-a-module", storage(kind="os.path")),
    ):
        yield name, whole(first=tensor(data=data))
    twice = tensor((16,), (1,), data=storage(count=16, kind="ByteStorage"))
    yield "storage-of-two-kinds", whole(twice)
    yield "tensor-without-storage", whole(first=tensor(data=b"N"))
    yield "persistent-id-of-a-module", whole(b"(" + text("module") + b"cos\nsystem\ntQ")
    hooks = tensor().replace(_HOOKS, _HOOKS + b"K\x01cos\nsystem\ns")
    yield "hooks-on-a-tensor", whole(first=hooks)
    yield "methods-replaced-on-a-dict", whole(_HOOKS + b"}" + text("items") + b"Nsb")


def _damaged() -> Iterator[tuple[str, bytes]]:
    yield "empty-pickle", b""
    yield "no-stop", whole()[:-1]
    yield "cut-in-the-middle", whole()[:40]
    yield "memo-never-set", whole(b"h\x63")
    yield "stack-underflow-append", b"\x80\x02a."
    yield "stack-underflow-call", b"\x80\x02)R."
    yield "stack-underflow-build", b"\x80\x02b."
    yield "stack-underflow-items", b"\x80\x02NNs."
    yield "mark-missing", b"\x80\x02t."
    yield "left-on-the-stack", b"\x80\x02NNNN" + whole()[2:]
    yield "name-not-utf-8", whole(b"X\x02\x00\x00\x00\xff\xfe")
    yield "odd-number-of-items", whole(b"}(" + text("a") + b"u")
    yield "append-to-a-dict", whole(b"}Na")
    yield "unknown-opcode", whole(b"\xff")
    yield "protocol-5", whole().replace(b"\x80\x02", b"\x80\x05", 1)
    yield "text-opcodes", b"(dp0\nS'module'\np1\n(dp2\ns."
    yield "backslash-in-a-name", whole(b"cos\\q\nsystem\n")
    for label, name in (
        ("parent-path", "../../etc/passwd"),
        ("absolute-path", "/etc/passwd"),
        ("windows-path", "..\\..\\evil"),
        ("null", "a\0b"),
        ("terminal-codes", "\x1b[2J\x1b]0;owned\x07"),
        ("lone-surrogate", "\ud800"),
        ("two-lines", "a\nb"),
        ("megabyte", "a" * (1 << 20)),
    ):
        yield f"tensor-name-{label}", whole(name=name)
    yield "entry-name-terminal-codes", whole().replace(b"}", b"}" + text("\x1b[2J") + b"Ns", 1)
    yield "no-tensors", b"\x80\x02}" + text("module") + b"}s."
    yield "not-a-dict", b"\x80\x02" + tensor() + b"."


def attacks(canary: Path) -> Iterator[tuple[str, list[Chunk]]]:
    """File names and contents."""
    runs = dict(running(canary))
    for name, pickled in runs.items():
        yield f"pickle-{name}.pt", forge(torch_file(pickled))
    for pickles in (_exhausting(), _lying(), _damaged()):
        for name, pickled in pickles:
            data: dict[str, Chunk] = {"0": Hole(4 << 20) if "one-storage" in name else bytes(16)}
            yield f"pickle-{name}.pt", forge(torch_file(pickled, data))
    plain = runs["reduce-os-system"]
    yield "plain-pickle.pt", [plain]
    yield "plain-pickle-named.safetensors", [plain]
    yield "plain-pickle-packed.pt", [gzip.compress(plain)]
    # torch before 1.6: magic number, protocol, system, then the checkpoint as a pickle of its own.
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    yield "legacy-format.pt", [magic, pickle.dumps({"little_endian": True}, 2), plain]
    inner = b"".join(c for c in forge(torch_file(plain)) if isinstance(c, bytes))
    yield "legacy-around-a-zip.pt", [magic, pickle.dumps(inner, 2)]
    yield "torchscript.pt", forge([*torch_file(whole()), Entry("archive/constants.pkl", plain)])
