"""The manifest: records that are whole or not there, of many writers, in a folder or a bucket."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampling.manifest import Manifest, Record
from sampling.open_store import open_store
from sampling.output_store import OutputStore
from tests.sampling.records import DONE, FAILED, UNREADABLE, last_of_each, manifest_file, of_line

ROOT = Path(__file__).parents[2]

records = st.builds(
    Record,
    line=st.integers(1, 9),
    prompt=st.none() | st.text(),
    image=st.none() | st.text(),
    seed=st.none() | st.integers(0, 2**31 - 1),
    settings=st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), max_size=2),
    key=st.none() | st.text(max_size=4),
    file=st.none() | st.text(max_size=4),
    digest=st.none() | st.text(max_size=4),
    bytes=st.none() | st.integers(0),
    seconds=st.none() | st.floats(0, allow_infinity=False),
    error=st.none() | st.text(),
)


@pytest.fixture
def folder(tmp_path) -> OutputStore:
    return open_store(str(tmp_path / "out"))


@settings(deadline=None)
@given(records)
def test_a_record_is_one_line_and_reads_back(record):
    text = record.to_json()
    assert b"\n" not in text
    assert Record.from_json(text) == record


def test_the_fields_are_those_of_the_format():
    assert json.loads(DONE.to_json()) == asdict(DONE)
    assert list(json.loads(DONE.to_json())) == [
        *("line", "prompt", "image", "seed", "settings", "key"),
        *("file", "digest", "bytes", "seconds", "error"),
    ]
    assert "Kätzchen".encode() in DONE.to_json()


def test_half_a_character_in_an_error_does_no_harm():
    record = replace(FAILED, error="image is 'a\udcff.png'")
    assert Record.from_json(record.to_json()) == record


def test_a_number_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(DONE, seconds=float("nan")).to_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stars": 5}, "'stars', which this version does not know"),
        ({"line": "1"}, "its 'line' is not"),
        ({"line": True}, "its 'line' is not"),
        ({"line": None}, "its 'line' is not"),
        ({"bytes": 1.5}, "its 'bytes' is not"),
        ({"settings": []}, "its 'settings' is not"),
        ({"error": 5}, "its 'error' is not"),
    ],
)
def test_what_another_version_wrote_is_no_record(change, words):
    with pytest.raises(ValueError, match=words):
        Record.from_json(json.dumps(asdict(DONE) | change).encode())


@pytest.mark.parametrize("name", list(asdict(DONE)))
def test_every_field_must_be_there(name):
    fields = {key: value for key, value in asdict(DONE).items() if key != name}
    with pytest.raises(ValueError, match=f"it has no '{name}'"):
        Record.from_json(json.dumps(fields).encode())


def test_the_last_record_of_each_line_counts(store):
    manifest = Manifest(store)
    assert manifest.records() == {}
    written = [DONE, of_line(2), FAILED, UNREADABLE, of_line(3), DONE, FAILED]
    for record in written:
        manifest.append(record)
    expected = {1: FAILED, 2: of_line(2), 3: of_line(3)}
    assert Manifest(store).records() == expected
    manifest.close()
    assert Manifest(store).records() == expected


def test_a_restart_goes_on_with_the_same_manifest(store):
    for _ in range(3):
        manifest = Manifest(store)
        number = len(manifest.records()) + 1
        manifest.append(of_line(number))
        manifest.append(of_line(1, seconds=float(number)))
        manifest.close()
    assert Manifest(store).records() == {
        1: of_line(1, seconds=3.0),
        2: of_line(2),
        3: of_line(3),
    }


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 2), records), max_size=8))
def test_writers_may_take_turns_in_any_order(folder, turns):
    manifest_file(folder).unlink(missing_ok=True)
    writers = [Manifest(folder) for _ in range(3)]
    for writer, record in turns:
        writers[writer].append(record)
    assert Manifest(folder).records() == last_of_each(record for _, record in turns)


_APPEND = """
import sys
from dataclasses import replace
from sampling.manifest import Manifest, Record
from sampling.open_store import open_store
url, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
record = Record.from_json(sys.stdin.buffer.readline())
manifest = Manifest(open_store(url))
print("ready", flush=True)
sys.stdin.buffer.readline()
for line in range(first, last):
    manifest.append(replace(record, line=line, file=f"{line:06}.mp4", prompt="x" * line * 10))
    print(line, flush=True)
manifest.close()
"""


def appending(store: OutputStore, first: int, last: int) -> subprocess.Popen:
    """A process that is about to append lines from `first` to before `last`."""
    process = subprocess.Popen(
        [sys.executable, "-c", _APPEND, store.url, str(first), str(last)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdin.write(DONE.to_json() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"ready\n"
    return process


def go(process: subprocess.Popen) -> None:
    process.stdin.write(b"go\n")
    process.stdin.flush()


def test_two_processes_append_at_once(store):
    count = 100 if store.url.startswith("/") else 20
    processes = [appending(store, 0, count), appending(store, count, 2 * count)]
    for process in processes:
        go(process)
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    found = Manifest(store).records()
    assert set(found) == set(range(2 * count))
    assert all(record.prompt == "x" * line * 10 for line, record in found.items())


def test_what_was_appended_before_a_kill_is_there(store):
    process = appending(store, 0, 10_000)
    go(process)
    for line in range(5):
        assert int(process.stdout.readline()) == line
    process.send_signal(signal.SIGKILL)
    rest = process.communicate(timeout=60)[0].split()
    told = 5 + len(rest)
    found = Manifest(store).records()
    # The last one may have been appended and not told.
    assert set(found) in (set(range(told)), set(range(told + 1)))
    Manifest(store).append(of_line(20_000))
    assert set(Manifest(store).records()) == {*found, 20_000}
