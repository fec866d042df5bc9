"""OUT, a folder or a bucket: files whole or not at all, and errors before anything begins."""

import errno
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sampling.open_store import open_store
from sampling.output_store import OutputError, OutputStore, temporary_name
from tests.weights.pushing.s3_servers import SECRET
from weights.errors import OperationError, UserError

ROOT = Path(__file__).parents[2]
TOKEN = "0123abcd"


def entries(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def content_of(store: OutputStore, name: str, bucket) -> bytes:
    if store.url.startswith("s3://"):
        return bucket.get(f"runs/one/{name}")
    return (Path(store.url) / name).read_bytes()


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "video"
    path.write_bytes(b"frames")
    return path


def test_files_come_under_their_names_and_are_replaced(store, video, bucket):
    assert store.names() == set()
    store.put("000001.mp4", video)
    store.put("000002.webm", video)
    video.write_bytes(b"others")
    store.put("000001.mp4", video)
    assert store.names() == {"000001.mp4", "000002.webm"}
    assert content_of(store, "000001.mp4", bucket) == b"others"
    assert content_of(store, "000002.webm", bucket) == b"frames"
    assert video.read_bytes() == b"others"


def test_the_manifest_is_not_among_the_names(store, video):
    store.put("000001.mp4", video)
    store.record_log().append(1, b"{}")
    assert store.names() == {"000001.mp4"}
    store.record_log().close()
    assert store.names() == {"000001.mp4"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x.mp4",
        "a/b.mp4",
        "/x.mp4",
        "a\\b.mp4",
        ".hidden",
        "x\0.mp4",
        "x\n.mp4",
        "manifest.jsonl",
        temporary_name("x.mp4", TOKEN),
        "x" * 300,
    ],
)
def test_only_plain_names_are_taken(store, video, name):
    with pytest.raises(ValueError, match="no name of an output"):
        store.put(name, video)
    assert store.names() == set()


def test_a_store_can_be_pickled_and_opened_again_by_its_url(store, video, monkeypatch, tmp_path):
    store.put("000001.mp4", video)
    monkeypatch.chdir("/")
    for same in (pickle.loads(pickle.dumps(store)), open_store(store.url)):
        assert same == store
        assert same.names() == {"000001.mp4"}


def test_a_relative_folder_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("a/b")
    assert store.url == str(tmp_path / "a" / "b")
    assert entries("a/b") == []


@pytest.mark.parametrize("out", ["", " ", "https://e.com/x", "file:///tmp/x", "S3://b/x"])
def test_what_is_no_place_is_refused(out):
    with pytest.raises(UserError, match=r"can't be written to|is blank") as refused:
        open_store(out)
    assert refused.value.exit_code == 2


def test_a_file_is_no_folder(video):
    for out in (video, video / "below"):
        with pytest.raises(UserError, match="is a file, or would be in one") as refused:
            open_store(str(out))
        assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EACCES, 2, "can't be written"),
        (errno.ENOSPC, 1, "No space left"),
        (errno.ENOLCK, 1, "can't lock files"),
    ],
)
def test_what_the_disk_refuses_is_said_when_out_is_opened(
    tmp_path, monkeypatch, number, code, words
):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=words) as refused:
        open_store(str(tmp_path / "out"))
    assert refused.value.exit_code == code
    assert entries(tmp_path / "out") == []


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, video, monkeypatch):
    store = open_store(str(tmp_path / "out"))
    store.put("000001.mp4", video)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    video.write_bytes(b"others")
    with pytest.raises(OutputError, match=r"000001\.mp4: No space left") as failed:
        store.put("000001.mp4", video)
    assert failed.value.exit_code == 1
    assert entries(store.url) == ["000001.mp4"]
    assert (Path(store.url) / "000001.mp4").read_bytes() == b"frames"


def test_a_folder_that_went_away_is_an_output_error(tmp_path, video):
    store = open_store(str(tmp_path / "out"))
    (tmp_path / "out").rmdir()
    with pytest.raises(OutputError):
        store.put("000001.mp4", video)
    with pytest.raises(OutputError):
        store.names()


def test_what_others_have_in_the_folder_is_left_alone(tmp_path, video):
    out = tmp_path / "out"
    (out / "folder").mkdir(parents=True)
    for name in ("notes.tmp.txt", "x.tmp.1", ".hidden"):
        (out / name).touch()
    store = open_store(str(out))
    assert store.names() == {"notes.tmp.txt", "x.tmp.1"}
    assert len(entries(out)) == 4


def test_leftovers_of_killed_processes_are_removed_and_those_of_live_ones_stay(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    left = out / "000001.mp4.tmp.1.0123abcd"
    left.write_bytes(b"half")
    with putting(out, "000002.mp4") as (process, pipe):
        (halfway,) = (name for name in entries(out) if name.startswith("000002"))
        store = open_store(str(out))
        assert entries(out) == [halfway]
        assert store.names() == set()
        os.write(pipe, b"end")
        os.close(pipe)
        assert process.wait(60) == 0
    assert store.names() == {"000002.mp4"}
    assert (out / "000002.mp4").read_bytes() == b"begin" + b"x" * (1 << 20) + b"end"


def test_a_process_killed_in_the_middle_leaves_nothing_under_the_name(tmp_path, video):
    out = tmp_path / "out"
    store = open_store(str(out))
    store.put("000001.mp4", video)
    with putting(out, "000001.mp4") as (process, pipe):
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        os.close(pipe)
    assert store.names() == {"000001.mp4"}
    assert (out / "000001.mp4").read_bytes() == b"frames"
    assert len(entries(out)) == 2
    open_store(str(out))
    assert entries(out) == ["000001.mp4"]


class putting:  # noqa: N801
    """A process that puts what comes through a pipe as `name`, and has written a part of it."""

    def __init__(self, out: Path, name: str) -> None:
        self.out, self.name = out, name

    def __enter__(self) -> tuple[subprocess.Popen, int]:
        fifo = self.out.parent / "fifo"
        os.mkfifo(fifo)
        code = (
            "import sys; from pathlib import Path\n"
            "from sampling.folder_store import FolderStore\n"
            "FolderStore(Path(sys.argv[1])).put(sys.argv[2], Path(sys.argv[3]))"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, self.out, self.name, fifo], cwd=ROOT
        )
        pipe = os.open(fifo, os.O_WRONLY)
        # More than the pipe holds: when this returns, it has been read, and the file is there.
        data = memoryview(b"begin" + b"x" * (1 << 20))
        while data:
            data = data[os.write(pipe, data) :]
        return self.process, pipe

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def test_a_file_that_was_removed_before_it_was_locked_is_made_again(tmp_path, video, monkeypatch):
    """Another process that opens OUT in that moment takes it for a killed one's."""
    import fcntl

    store = open_store(str(tmp_path / "out"))
    flock, swept = fcntl.flock, []

    def sweep_first(file, operation):
        if not swept:
            (name,) = entries(store.url)
            (Path(store.url) / name).unlink()
            swept.append(name)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    store.put("000001.mp4", video)
    assert swept
    assert entries(store.url) == ["000001.mp4"]


def test_who_reads_a_file_that_is_replaced_reads_the_old_one(tmp_path, video):
    store = open_store(str(tmp_path / "out"))
    store.put("000001.mp4", video)
    with (tmp_path / "out" / "000001.mp4").open("rb") as old:
        video.write_bytes(b"others")
        store.put("000001.mp4", video)
        assert old.read() == b"frames"


def test_files_get_the_rights_of_new_files(tmp_path, video):
    store = open_store(str(tmp_path / "out"))
    store.put("000001.mp4", video)
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "out" / "000001.mp4").stat().st_mode == plain.stat().st_mode


# Buckets


def test_opening_a_bucket_leaves_nothing_there(bucket):
    bucket.gate.forget()
    open_store(f"s3://{bucket.name}/runs/")
    assert bucket.keys() == []
    assert [line.split()[0] for line in bucket.gate.sent()] == ["PUT", "POST"]


@pytest.mark.parametrize("prefix", ["", "/", "/a", "/a/b%20c/"])
def test_a_prefix_has_its_own_names(bucket, video, prefix):
    bucket.put("else/000009.mp4", b"")
    bucket.put("a/b c/d/000009.mp4", b"")
    store = open_store(f"s3://{bucket.name}{prefix}")
    store.put("000001.mp4", video)
    assert store.names() == {"000001.mp4"}
    below = {"": "", "/": "", "/a": "a/", "/a/b%20c/": "a/b c/"}[prefix]
    assert bucket.get(f"{below}000001.mp4") == b"frames"


def test_videos_in_a_bucket_have_their_type(bucket, video):
    store = open_store(f"s3://{bucket.name}")
    store.put("000001.mp4", video)
    head = bucket.server.client.head_object(Bucket=bucket.name, Key="000001.mp4")
    assert head["ContentType"] == "video/mp4"


def test_a_bucket_that_is_not_there_is_said(bucket):
    with pytest.raises(UserError, match="no such bucket") as refused:
        open_store("s3://not-there/x")
    assert refused.value.exit_code == 2


def test_missing_credentials_are_said(bucket, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match="no credentials") as refused:
        open_store(f"s3://{bucket.name}/x")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_a_right_that_is_missing_is_said_at_once(bucket, method):
    body = f"<Error><Code>AccessDenied</Code><Key>{SECRET}</Key></Error>".encode()
    bucket.gate.step_in = lambda request: (403, body) if request.method == method else None
    with pytest.raises(OperationError, match="access is denied") as refused:
        open_store(f"s3://{bucket.name}/x")
    assert SECRET not in str(refused.value)


def test_an_unreachable_server_is_said(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OperationError, match="can't be reached"):
        open_store(f"s3://{bucket.name}/x")


def test_credentials_that_expire_are_an_output_error(bucket, video):
    store = open_store(f"s3://{bucket.name}/x")
    body = b"<Error><Code>ExpiredToken</Code></Error>"
    bucket.gate.step_in = lambda request: (400, body)
    with pytest.raises(OutputError, match=r"expired.*same command then goes on"):
        store.put("000001.mp4", video)
    with pytest.raises(OutputError):
        store.names()


def test_a_process_killed_in_the_middle_of_an_upload_leaves_no_object(bucket, tmp_path):
    store = open_store(f"s3://{bucket.name}/x")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(12 << 20)
    code = (
        "import sys; from pathlib import Path\n"
        "from sampling.bucket_store import BucketStore\n"
        "BucketStore(sys.argv[1]).put('000001.mp4', Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, store.url, large], cwd=ROOT)

    def kill_at_the_second_part(request):
        if "partNumber=2" in request.query:
            process.kill()
            return 500, b""
        return None

    bucket.gate.step_in = kill_at_the_second_part
    assert process.wait(60) == -signal.SIGKILL
    bucket.gate.forget()
    assert bucket.keys() == []
    assert store.names() == set()
    store.put("000001.mp4", large)
    assert len(bucket.get("x/000001.mp4")) == 12 << 20
