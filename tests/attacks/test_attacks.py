"""Every generated attack is refused: at once, in little memory, by a sentence, and nothing runs."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from conversion.checkpoint import open_checkpoint
from weights.errors import UserError

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="measures with Linux's /proc"
)

MAX_SECONDS = 1.0
MAX_GROWTH = 200 << 20


def python(*arguments, path: str | Path = "") -> str:
    environment = os.environ | {"PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def canary_folder(folder: Path) -> Path:
    """A folder where attacks that succeed leave a file, and a module that does so when imported."""
    (folder / "modules").mkdir(parents=True)
    touched = str(folder / "imported")
    (folder / "modules" / "canary_module.py").write_text(f"open({touched!r}, 'w').close()")
    return folder


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    return canary_folder(tmp_path_factory.mktemp("canary"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, canary):
    folder = tmp_path_factory.mktemp("attacks") / "corpus"
    python(HERE / "make_attacks.py", folder, canary)
    return folder


@pytest.fixture(scope="module")
def reports(corpus, canary):
    lines = python(HERE / "measure_refusals.py", corpus, path=canary / "modules")
    return [json.loads(line) for line in lines.splitlines()]


def test_every_attack_is_refused_by_one_line_that_names_the_file(reports, corpus):
    assert len(reports) == len(list(corpus.iterdir())) > 200
    for report in reports:
        assert report["outcome"] == "refused", report
        message = report["message"]
        assert report["path"] in message
        assert message.isprintable(), "one line, without terminal codes"
        assert len(message) < 800
        assert "Traceback" not in message


def test_nothing_ran(reports, canary):
    assert reports
    assert [path.name for path in canary.iterdir()] == ["modules"]


def test_refusals_take_under_a_second(reports):
    assert not [r for r in reports if r["seconds"] > MAX_SECONDS]


def test_refusals_take_under_200_megabytes(reports):
    assert not [r for r in reports if r["grown"] > MAX_GROWTH]


def test_files_are_refused_before_torch_is_imported(reports):
    assert not [r["path"] for r in reports if r["torch"]]


def test_no_file_is_left_open(reports):
    assert not [r["path"] for r in reports if r["files_left_open"]]


def test_the_attacks_are_armed(tmp_path):
    """Read by Python's own unpickler they run: otherwise `test_nothing_ran` would prove nothing."""
    code = """
import io, pickle, sys
from pathlib import Path
from pickle_attacks import running
class Victim(pickle.Unpickler):
    def persistent_load(self, pid): return None
    def find_class(self, module, name):
        torch = module.startswith("torch")
        return (lambda *_: None) if torch else super().find_class(module, name)
for _, pickled in running(Path(sys.argv[1])):
    try: Victim(io.BytesIO(pickled)).load()
    except Exception: pass
"""
    canary = canary_folder(tmp_path)
    python("-W", "ignore", "-c", code, canary, path=f"{HERE}:{canary / 'modules'}")
    ran = {"os-system", "posix", "eval", "exec", "inst", "obj", "newobj", "newobj-ex", "stack"}
    ran |= {"chain", "imported", "before"}
    assert {path.name for path in canary.iterdir()} == {"modules", *ran}


def test_the_forger_makes_files_that_open_when_they_do_not_lie(tmp_path):
    """Otherwise the attacks might be refused for a mistake in how they are made."""
    code = """
import struct, sys
from pathlib import Path
from forged_zip import forge, torch_file, write
from pickle_attacks import tensor, whole
from safetensors_attacks import entry, file
folder = Path(sys.argv[1])
wide = {"count": 0xFFFF, "here": 0xFFFF, "length": 0xFFFFFFFF, "offset": 0xFFFFFFFF}
entries = torch_file(whole(first=tensor((2, 2), (1, 2))))
write(folder / "plain.pt", forge(entries))
write(folder / "zip64.pt", forge(entries, wide, {}))
extra = struct.pack("<2H2Q", 1, 16, 16, 16)
entries[2].central = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF, "extra": len(extra)}
entries[2].central_extra = extra
write(folder / "zip64-entry.pt", forge(entries))
write(folder / "x.safetensors", file({"a": entry()}))
"""
    python("-c", code, tmp_path, path=HERE)
    for name in ("plain.pt", "zip64.pt", "zip64-entry.pt", "x.safetensors"):
        assert not open_checkpoint(tmp_path / name).tensors["a"].any()


@pytest.mark.parametrize(
    "name",
    [
        "pickle-reduce-os-system.pt",
        "zip-deflated-bomb.pt",
        "safetensors-offsets-past-the-end.safetensors",
        "other-fifo.pt",
    ],
)
def test_inspect_says_so_in_one_line(name, corpus, canary):
    command = "import sys; from cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", command, "inspect", str(corpus / name)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert str(corpus / name) in done.stderr
    assert [path.name for path in canary.iterdir()] == ["modules"]


def _damaged(whole: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        # The pickle lies at the start, the directory at the end, and the rest is numbers.
        region = chance.choice((range(10_000), range(len(whole) - 1200, len(whole))))
        damaged[chance.choice(region)] = chance.randrange(256)
    return bytes(damaged[: chance.choice((len(damaged), len(damaged) - 1, None))])


def test_damage_anywhere_is_refused_or_harmless(golden_deepspeed, tmp_path):
    """Random bytes of a real save are changed: it opens, or there is a UserError."""
    chance = random.Random(4)
    whole = golden_deepspeed.read_bytes()
    path = tmp_path / "damaged.pt"
    refused = 0
    for _ in range(150):
        path.write_bytes(_damaged(whole, chance))
        try:
            for tensor in open_checkpoint(path).tensors.values():
                tensor.sum()
        except UserError:
            refused += 1
    assert 50 < refused < 150


@pytest.fixture(scope="module")
def golden_deepspeed():
    folder = HERE.parent / "golden" / "deepspeed" / "zero0" / "500"
    return folder / "mp_rank_00_model_states.pt"
