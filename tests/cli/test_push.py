"""`cogvideox push`: what it prints, writes and answers, and what an interruption leaves."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cli.main import main
from tests.weights.pushing.s3_servers import SECONDS, SECRET, Bucket, packed_file, running_moto
from weights.lock import Lock, LockedFile, read_lock, write_lock

LARGE = (40 << 20) + 17
SMALL = 5000


@pytest.fixture(scope="module")
def moto():
    with running_moto() as server:
        yield server


@pytest.fixture
def bucket(moto, monkeypatch) -> Bucket:
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    moto.gate.forget()
    bucket = moto.new_bucket()
    moto.gate.forget()
    return bucket


def packed(folder: Path, size: int = SMALL) -> Path:
    """A tarball with its lock beside it."""
    write_lock(packed_file(folder / "my-1.5b.tar", size), folder / "my-1.5b.lock.json")
    return folder / "my-1.5b.tar"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_the_url_is_written_into_the_lock_beside_the_tarball(capsys, bucket, tmp_path):
    tarball = packed(tmp_path)
    before = read_lock(tmp_path / "my-1.5b.lock.json")
    code, out, err = run(capsys, "push", tarball, f"s3://{bucket.name}/")
    assert (code, err) == (0, "")
    assert f"Uploaded s3://{bucket.name}/my-1.5b.tar (5.0 kB): its size and the MD5" in out
    after = read_lock(tmp_path / "my-1.5b.lock.json")
    assert after.url == f"s3://{bucket.name}/my-1.5b.tar"
    assert (after.digest, after.files) == (before.digest, before.files)
    code, out, _ = run(capsys, "push", tarball, f"s3://{bucket.name}/")
    assert code == 0
    assert "Kept" in out


def test_json_is_one_document(capsys, bucket, tmp_path):
    tarball = packed(tmp_path)
    (tmp_path / "my-1.5b.lock.json").rename(tmp_path / "other.json")
    arguments = ["--lock", tmp_path / "other.json", "--url", "https://cdn.example/x.tar", "--json"]
    code, out, _ = run(capsys, "push", tarball, f"s3://{bucket.name}/x.tar", *arguments)
    assert code == 0
    assert json.loads(out) == {
        "url": "https://cdn.example/x.tar",
        "lock": str(tmp_path / "other.json"),
        "files": [
            {
                "url": f"s3://{bucket.name}/x.tar",
                "size": SMALL,
                "uploaded": True,
                "readBack": "etag",
            }
        ],
    }
    assert read_lock(tmp_path / "other.json").url == "https://cdn.example/x.tar"


def test_a_split_pack_has_its_lock_beside_it(capsys, bucket, tmp_path):
    (tmp_path / "split").mkdir()
    lock = packed_file(tmp_path / "split" / "config.json", SMALL)
    files = (LockedFile("config.json", SMALL, lock.digest),)
    split = Lock(name="s", variant=None, dtype=None, url="split/", files=files)
    write_lock(split, tmp_path / "split.lock.json")
    code, out, _ = run(capsys, "push", tmp_path / "split", f"s3://{bucket.name}/p", "--json")
    assert code == 0
    assert json.loads(out)["url"] == f"s3://{bucket.name}/p/"
    assert bucket.keys() == ["p/config.json"]


def test_bad_input_is_one_line_and_code_2(capsys, bucket, tmp_path):
    tarball = packed(tmp_path)
    bucket.put("x.tar", b"another")
    before = (tmp_path / "my-1.5b.lock.json").read_bytes()
    for arguments in (
        (tmp_path / "gone.tar", f"s3://{bucket.name}/"),
        (tarball, "ftp://example.com/x.tar"),
        (tarball, "s3://not-there/x.tar"),
        (tarball, f"s3://{bucket.name}/x.tar"),
        (tarball, f"s3://{bucket.name}/y.tar", "--url", "x?y"),
        (tarball, f"s3://{bucket.name}/y.tar", "--lock", tmp_path / "gone.json"),
    ):
        code, out, err = run(capsys, "push", *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("cogvideox push: ")
        assert err.count("\n") == 1
    assert (tmp_path / "my-1.5b.lock.json").read_bytes() == before
    assert bucket.keys() == ["x.tar"]


def test_a_failed_upload_is_code_1_and_leaves_the_lock(capsys, bucket, tmp_path):
    tarball = packed(tmp_path)
    before = (tmp_path / "my-1.5b.lock.json").read_bytes()
    body = f"<Error>{SECRET}</Error>".encode()
    bucket.gate.step_in = lambda request: (403, body) if request.method == "PUT" else None
    code, out, err = run(capsys, "push", tarball, f"s3://{bucket.name}/x.tar")
    assert (code, out) == (1, "")
    assert SECRET not in err
    assert (tmp_path / "my-1.5b.lock.json").read_bytes() == before


def test_an_unwritable_lock_is_said_after_the_upload(capsys, bucket, tmp_path, monkeypatch):
    tarball = packed(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cli.push.write_lock", refuse)
    code, _, err = run(capsys, "push", tarball, f"s3://{bucket.name}/x.tar")
    assert code == 1
    assert f"at s3://{bucket.name}/x.tar, but" in err


# Signals as in a terminal, also where the tests run in the background or under nohup.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from cli.main import entry_point
entry_point()
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START, "push", *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_push_leaves_nothing(bucket, tmp_path, number):
    tarball = packed(tmp_path, LARGE)
    before = (tmp_path / "my-1.5b.lock.json").read_bytes()
    reached, go_on = threading.Event(), threading.Event()

    def step_in(request) -> None:
        if "partNumber=2&" in f"{request.query}&":
            reached.set()
            assert go_on.wait(SECONDS)

    bucket.gate.step_in = step_in
    with start(tarball, f"s3://{bucket.name}/x.tar") as process:
        try:
            assert reached.wait(SECONDS)
            os.kill(process.pid, number)
            assert "Interrupted" in process.stderr.readline()
            go_on.set()
            _, err = process.communicate(timeout=SECONDS)
        finally:
            go_on.set()
            process.kill()
    assert process.returncode == 1
    assert "interrupted" in err
    assert (bucket.keys(), bucket.uploads()) == ([], [])
    assert (tmp_path / "my-1.5b.lock.json").read_bytes() == before


def test_a_killed_push_is_taken_up_by_the_next(capsys, bucket, tmp_path):
    tarball = packed(tmp_path, LARGE)
    reached, go_on = threading.Event(), threading.Event()

    def step_in(request) -> None:
        if "partNumber=2&" in f"{request.query}&":
            reached.set()
            go_on.wait(SECONDS)

    bucket.gate.step_in = step_in
    with start(tarball, f"s3://{bucket.name}/x.tar") as process:
        try:
            assert reached.wait(SECONDS)
        finally:
            process.kill()
    go_on.set()
    bucket.gate.forget()
    assert bucket.uploads() == ["x.tar"]  # what the lifecycle rule is for
    code, _, _ = run(capsys, "push", tarball, f"s3://{bucket.name}/x.tar")
    assert code == 0
    assert bucket.get("x.tar") == tarball.read_bytes()
