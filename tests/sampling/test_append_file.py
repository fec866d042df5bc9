"""manifest.jsonl in a folder: lines are whole or not there, whatever ends a process."""

import errno
import fcntl
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sampling import append_file
from sampling.manifest import Manifest
from sampling.open_store import open_store
from sampling.output_store import OutputError, OutputStore
from tests.sampling.records import DONE, FAILED, last_of_each, manifest_file, of_line
from weights.errors import UserError


@pytest.fixture
def folder(tmp_path) -> OutputStore:
    return open_store(str(tmp_path / "out"))


def test_a_torn_line_never_counts_and_never_sticks_to_the_next(folder, monkeypatch):
    # Small, so that a line's end is looked for over several blocks.
    monkeypatch.setattr(append_file, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    short = {"settings": {}, "prompt": "a", "key": "b", "digest": None}
    written = [replace(DONE, **short), of_line(2, **short), replace(FAILED, **short)]
    new = of_line(7)
    whole = b"".join(record.to_json() + b"\n" for record in written)
    # Where each record ends; the line break itself may be missing.
    ends = [len(b"\n".join(r.to_json() for r in written[: n + 1])) for n in range(3)]
    for size in range(len(whole) + 1):
        manifest_file(folder).write_bytes(whole[:size])
        there = [record for record, end in zip(written, ends, strict=True) if end <= size]
        assert Manifest(folder).records() == last_of_each(there)
        Manifest(folder).append(new)
        assert Manifest(folder).records() == last_of_each([*there, new])
        lines = [record.to_json() + b"\n" for record in [*there, new]]
        assert manifest_file(folder).read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"not JSON", "line 2 is no record of a clip: Expecting value"),
        (b'{"line": 2', "line 2 is no record of a clip"),
        (b"[]", "it is not an object"),
        (b"\xff", "line 2 is no record of a clip"),
        (json.dumps(asdict(DONE) | {"stars": 5}).encode(), "'stars', which this version does not"),
    ],
)
def test_a_bad_line_in_the_middle_is_named(folder, line, words):
    manifest_file(folder).write_bytes(DONE.to_json() + b"\n" + line + b"\n" + DONE.to_json())
    with pytest.raises(UserError, match=words) as refused:
        Manifest(folder).records()
    assert f"{manifest_file(folder)}, line 2" in str(refused.value)
    assert refused.value.exit_code == 2


def test_blank_lines_do_no_harm(folder):
    manifest_file(folder).write_bytes(b"\n" + DONE.to_json() + b"\r\n\n")
    assert Manifest(folder).records() == {1: DONE}


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_full_disk_leaves_the_manifest_as_it_was(folder, monkeypatch, failing):
    Manifest(folder).append(DONE)

    def half_written(file, data):
        file.write(data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def unsynced(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if failing == "write":
            patch.setattr(append_file, "_write", half_written)
        else:
            patch.setattr(os, "fsync", unsynced)
        with pytest.raises(OutputError, match=r"manifest\.jsonl: No space left"):
            Manifest(folder).append(of_line(2))
    assert manifest_file(folder).read_bytes() == DONE.to_json() + b"\n"
    Manifest(folder).append(of_line(2))
    assert Manifest(folder).records() == {1: DONE, 2: of_line(2)}


def is_locked(path: Path, operation: int) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_who_appends_or_reads_has_the_file_locked(folder, monkeypatch):
    Manifest(folder).append(DONE)
    path, write, seen = manifest_file(folder), append_file._write, []

    def looked_at(file, data):
        seen.append(is_locked(path, fcntl.LOCK_SH))
        write(file, data)

    monkeypatch.setattr(append_file, "_write", looked_at)
    Manifest(folder).append(of_line(2))
    assert seen == [True]
    lines = folder.record_log().lines()
    next(lines)
    assert is_locked(path, fcntl.LOCK_EX)
    assert not is_locked(path, fcntl.LOCK_SH)
    assert len(list(lines)) == 1
    assert not is_locked(path, fcntl.LOCK_EX)
