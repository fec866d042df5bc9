"""Push: whole or not at all, never over another object, read back, and nothing left behind."""

import logging
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.weights.pushing.s3_servers import SECRET, Bucket, Request, packed_file, running_moto
from weights.errors import OperationError, UserError
from weights.lock import Lock, LockedFile, lock_fields
from weights.pushing.push import push
from weights.pushing.upload import part_bytes
from weights.signature import check_signature, sign

PEM = Encoding.PEM
LARGE = (16 << 20) + 17  # three parts
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


@pytest.fixture
def tarball(tmp_path) -> Path:
    return tmp_path / "my 5b.tar"


def nothing_left(bucket: Bucket) -> bool:
    return bucket.keys() == [] and bucket.uploads() == []


def is_part(request: Request, number: int) -> bool:
    return f"partNumber={number}&" in f"{request.query}&"


def is_end(request: Request) -> bool:
    return request.method == "POST" and request.query.startswith("uploadId=")


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_the_object_is_the_tarball_and_the_lock_points_there(bucket, tarball, size):
    lock = packed_file(tarball, size)
    pushed_lock, [file] = push(lock, tarball, f"s3://{bucket.name}/deep/")
    assert pushed_lock.url == f"s3://{bucket.name}/deep/my%205b.tar"
    assert lock_fields(pushed_lock) | {"url": lock.url} == lock_fields(lock)
    assert bucket.get("deep/my 5b.tar") == tarball.read_bytes()
    assert bucket.metadata("deep/my 5b.tar") == {"digest": lock.digest}
    assert (file.uploaded, file.size, file.read_back) == (True, size, "etag")
    assert bucket.uploads() == []


def test_a_signature_goes_along_and_is_found_and_held_by_fetch(bucket, tarball, tmp_path):
    lock = packed_file(tarball, SMALL)
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(PEM, PublicFormat.SubjectPublicKeyInfo))
    sign(lock, private, tmp_path / "my 5b.tar.sig")
    pushed, files = push(lock, tarball, f"s3://{bucket.name}/deep/")
    assert [file.url for file in files] == [pushed.url, f"{pushed.url}.sig"]
    check_signature(pushed, public, None)
    bucket.put("deep/my 5b.tar.sig", b"{}")
    with pytest.raises(OperationError):
        check_signature(pushed, public, None)


@pytest.mark.parametrize("target", ["", "/", "/x/", "/x/my%205b.tar"])
def test_a_target_that_names_no_key_gets_the_tarballs_name(bucket, tarball, target):
    lock, _ = push(packed_file(tarball, SMALL), tarball, f"s3://{bucket.name}{target}")
    assert lock.url == f"s3://{bucket.name}/{'x/' * ('x' in target)}my%205b.tar"


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("replace", [False, True])
def test_what_is_there_already_is_not_sent_again(bucket, tarball, size, replace):
    lock = packed_file(tarball, size)
    push(lock, tarball, f"s3://{bucket.name}/x.tar")
    bucket.gate.forget()
    again, [file] = push(lock, tarball, f"s3://{bucket.name}/x.tar", replace=replace)
    assert bucket.gate.sent() == []
    assert again.url == f"s3://{bucket.name}/x.tar"
    assert (file.uploaded, file.read_back) == (False, "recorded digest")


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_another_object_is_kept_unless_told_to_replace_it(bucket, tarball, size):
    lock = packed_file(tarball, size)
    bucket.put("x.tar", b"another")
    bucket.gate.forget()
    with pytest.raises(UserError, match="another object") as refused:
        push(lock, tarball, f"s3://{bucket.name}/x.tar")
    assert "--replace" in refused.value.remedy
    assert bucket.gate.sent() == []
    assert bucket.get("x.tar") == b"another"
    push(lock, tarball, f"s3://{bucket.name}/x.tar", replace=True)
    assert bucket.get("x.tar") == tarball.read_bytes()
    assert bucket.uploads() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_an_object_that_comes_while_we_upload_is_kept(bucket, tarball, size):
    lock = packed_file(tarball, size)

    def step_in(request: Request) -> None:
        if request.query == "uploads=" or (size == SMALL and request.method == "PUT"):
            bucket.gate.forget()
            bucket.put("x.tar", b"another")

    bucket.gate.step_in = step_in
    with pytest.raises(OperationError, match="Something else came"):
        push(lock, tarball, f"s3://{bucket.name}/x.tar")
    assert bucket.get("x.tar") == b"another"
    assert bucket.uploads() == []


def test_a_large_file_is_announced_by_a_claim_that_names_its_digest(bucket, tarball):
    lock = packed_file(tarball, LARGE)
    seen = []

    def step_in(request: Request) -> None:
        if is_part(request, 1):
            bucket.gate.step_in = lambda request: None
            seen.append((bucket.metadata("x.tar"), bucket.get("x.tar")))

    bucket.gate.step_in = step_in
    push(lock, tarball, f"s3://{bucket.name}/x.tar")
    [(metadata, content)] = seen
    assert metadata["claimed"] == lock.digest
    assert lock.digest.encode() in content
    assert len(content) < 512


def test_the_claim_of_a_killed_push_is_taken_over_by_the_same_file_only(bucket, tarball):
    lock = packed_file(tarball, LARGE)
    bucket.put("x.tar", b"{}", claimed="sha256:another", token="1")
    with pytest.raises(UserError, match="the claim of another push"):
        push(lock, tarball, f"s3://{bucket.name}/x.tar")
    assert bucket.get("x.tar") == b"{}"
    bucket.put("x.tar", b"{}", claimed=lock.digest, token="1")
    push(lock, tarball, f"s3://{bucket.name}/x.tar")
    assert bucket.get("x.tar") == tarball.read_bytes()


def test_a_failed_push_leaves_a_claim_that_is_no_longer_its_own(bucket, tarball):
    lock = packed_file(tarball, LARGE)

    def step_in(request: Request) -> tuple[int, bytes] | None:
        if not is_part(request, 2):
            return None
        bucket.gate.step_in = lambda request: None
        bucket.put("x.tar", b"{}", claimed=lock.digest, token="of another push")
        return 400, b""

    bucket.gate.step_in = step_in
    with pytest.raises(UserError):
        push(lock, tarball, f"s3://{bucket.name}/x.tar")
    assert bucket.metadata("x.tar")["token"] == "of another push"
    assert bucket.uploads() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_of_pushes_of_different_files_at_once_one_succeeds(bucket, tmp_path, size):
    paths = [tmp_path / f"{number}.tar" for number in range(4)]
    locks = [packed_file(path, size, seed=number) for number, path in enumerate(paths)]
    start = threading.Barrier(len(paths))

    def attempt(number: int) -> bool:
        start.wait()
        try:
            push(locks[number], paths[number], f"s3://{bucket.name}/x.tar")
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(len(paths)) as pool:
        succeeded = [number for number, won in enumerate(pool.map(attempt, range(4))) if won]
    assert len(succeeded) == 1
    assert bucket.get("x.tar") == paths[succeeded[0]].read_bytes()
    assert bucket.uploads() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_an_altered_tarball_is_not_published(bucket, tarball, size):
    lock = packed_file(tarball, size)
    data = bytearray(tarball.read_bytes())
    data[-1] ^= 1
    tarball.write_bytes(data)
    for replace in (False, True):
        with pytest.raises(OperationError, match="another digest"):
            push(lock, tarball, f"s3://{bucket.name}/x.tar", replace=replace)
        assert nothing_left(bucket)


def test_a_failing_part_leaves_nothing(bucket, tarball):
    lock = packed_file(tarball, LARGE)
    bucket.gate.step_in = lambda request: (403, b"") if is_part(request, 2) else None
    with pytest.raises(OperationError, match="access is denied"):
        push(lock, tarball, f"s3://{bucket.name}/x.tar")
    bucket.gate.forget()
    assert nothing_left(bucket)


def test_a_failing_end_leaves_nothing(bucket, tarball):
    lock = packed_file(tarball, LARGE)
    bucket.gate.step_in = lambda request: (404, b"") if is_end(request) else None
    with pytest.raises(OperationError, match="HTTP 404"):
        push(lock, tarball, f"s3://{bucket.name}/x.tar")
    bucket.gate.forget()
    assert nothing_left(bucket)


def test_a_server_that_stumbles_is_asked_again(bucket, tarball):
    lock = packed_file(tarball, LARGE)
    failed: set[str] = set()

    def step_in(request: Request) -> tuple[int, bytes] | None:
        kind = request.method + request.query.partition("&")[0].partition("=")[2]
        if kind in failed or request.method == "POST":
            return None
        failed.add(kind)
        return 503, b"<Error><Code>SlowDown</Code></Error>"

    bucket.gate.step_in = step_in
    push(lock, tarball, f"s3://{bucket.name}/x.tar")
    assert {"HEAD", "PUT", "PUT1", "PUT2", "PUT3"} <= failed
    assert bucket.get("x.tar") == tarball.read_bytes()


def test_parts_that_could_not_be_removed_are_said(bucket, tarball):
    lock = packed_file(tarball, LARGE)
    refused = (403, b"")
    bucket.gate.step_in = lambda request: (
        refused if is_part(request, 2) or request.method == "DELETE" else None
    )
    with pytest.raises(OperationError, match="could not be removed") as left:
        push(lock, tarball, f"s3://{bucket.name}/x.tar")
    assert "lifecycle" in left.value.remedy
    bucket.gate.forget()
    assert bucket.uploads() == ["x.tar"]


def test_a_claim_that_could_not_be_removed_is_logged(bucket, tarball, caplog):
    lock = packed_file(tarball, LARGE)
    bucket.gate.step_in = lambda request: (
        (403, b"") if is_part(request, 2) or request.query == "delete" else None
    )
    with pytest.raises(OperationError, match="access is denied"):
        push(lock, tarball, f"s3://{bucket.name}/x.tar")
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "A claim" in record.getMessage()
    bucket.gate.forget()
    assert bucket.metadata("x.tar")["claimed"] == lock.digest


def test_an_etag_that_is_no_md5_makes_us_read_everything(bucket, tarball):
    lock = packed_file(tarball, LARGE)
    bucket.gate.etag = '"0x8DBE0F3A"'
    labels = []

    def bar(label: str, total: int):
        labels.append((label, total))
        return _bar(lambda count: None)

    _, [file] = push(lock, tarball, f"s3://{bucket.name}/x.tar", replace=True, bar=bar)
    assert file.read_back == "content"
    assert labels == [("Uploading", LARGE), ("Reading back", LARGE)]
    ranges = [request for request in bucket.gate.requests if request.method == "GET"]
    assert len(ranges) >= 3


class _bar:  # noqa: N801
    """A context manager that gives what it was made with."""

    def __init__(self, advance) -> None:
        self.advance = advance

    def __enter__(self):
        return self.advance

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_progress_counts_every_byte_once(bucket, tarball, size):
    counts = []
    lock = packed_file(tarball, size)
    push(lock, tarball, f"s3://{bucket.name}/x", bar=lambda *_: _bar(counts.append))
    assert sum(counts) == size


@pytest.mark.parametrize("same_size", [True, False])
def test_an_object_that_is_not_what_was_uploaded_is_found(bucket, tarball, same_size):
    lock = packed_file(tarball, LARGE)

    def step_in(request: Request) -> None:
        if is_end(request):
            bucket.gate.step_in = spoil

    def spoil(request: Request) -> None:
        if request.method == "HEAD":
            bucket.gate.forget()
            bucket.put("x.tar", bytes(LARGE if same_size else 5))

    bucket.gate.step_in = step_in
    with pytest.raises(OperationError, match="not what was uploaded"):
        push(lock, tarball, f"s3://{bucket.name}/x.tar")


@given(size=st.integers(0, 5 << 40))
def test_every_size_fits_the_parts_of_s3(size):
    part = part_bytes(size)
    assert part >= 5 << 20
    assert -(-size // part) <= 10_000
    assert part <= 5 << 30
    if size <= 80e9:
        assert part == 8 << 20


def test_bad_input_is_told_before_any_request(bucket, tarball, tmp_path):
    lock = packed_file(tarball, SMALL)
    target = f"s3://{bucket.name}/x.tar"
    (tmp_path / "short.tar").write_bytes(b"short")
    split = Lock(name="s", variant=None, dtype=None, url="x/", files=lock.files)
    unpinned = Lock(name="s", variant=None, dtype=None, url="x.tar")
    cases = [
        (lock, tmp_path / "short.tar", target, None, "has 5 bytes"),
        (lock, tmp_path / "gone.tar", target, None, "is not there"),
        (lock, tmp_path, target, None, "is not what the lock names"),
        (split, tarball, target, None, "is not what the lock names"),
        (split, tmp_path, target, None, "is not there"),
        (split, tmp_path, "https://example.com/x?signature=1", None, "no place to push to"),
        (unpinned, tarball, target, None, "not pinned"),
        (lock, tarball, "ftp://example.com/x", None, "no place to push to"),
        (lock, tarball, "x.tar", None, "no place to push to"),
        (lock, tarball, f"{target}?versionId=1", None, "not the URL of an object"),
        (lock, tarball, f"s3://{bucket.name}/a/../x.tar", None, "not the URL of an object"),
        (lock, tarball, "s3:///x.tar", None, "not the URL of an object"),
        (lock, tarball, target, "https://cdn.example/x/", "ends in a slash"),
        (lock, tarball, target, "x.tar", "is not absolute"),
        (lock, tarball, target, "https://cdn.example/x?signature=1", "no secret"),
        (lock, tarball, target, "https://cdn.example:x/x", "malformed"),
    ]
    for lock, source, place, url, message in cases:
        with pytest.raises(UserError, match=message) as refused:
            push(lock, source, place, url=url)
        assert refused.value.exit_code == 2
        assert "signature" not in str(refused.value)
    assert bucket.gate.requests == []


def test_another_url_may_stand_in_the_lock(bucket, tarball):
    lock = packed_file(tarball, SMALL)
    url = "https://cdn.example/x.tar"
    pushed, _ = push(lock, tarball, f"s3://{bucket.name}/x.tar", url=url)
    assert pushed.url == url


def split_pack(folder: Path, count: int) -> Lock:
    """`count` files in two folders, and a large one; a lock of them."""
    sizes = {f"a b/{number}.json": number for number in range(count)} | {"w/big": LARGE}
    files = []
    for path, size in sizes.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        lock = packed_file(folder / path, size, seed=size)
        files.append(LockedFile(path, size, lock.digest))
    url = f"{folder.name}/"
    return Lock(name="s", variant=None, dtype=None, url=url, files=tuple(files))


def test_a_split_pack_goes_file_by_file(bucket, tmp_path):
    lock = split_pack(tmp_path / "split", 9)
    pushed, files = push(lock, tmp_path / "split", f"s3://{bucket.name}/pre")
    assert pushed.url == f"s3://{bucket.name}/pre/"
    keys = bucket.keys()
    assert {key: bucket.get(key) for key in keys} == {
        f"pre/{file.path}": (tmp_path / "split" / file.path).read_bytes() for file in lock.files
    }
    assert [file.uploaded for file in files] == [True] * 10
    assert {file.read_back for file in files} == {"etag"}
    assert files[0].url == f"s3://{bucket.name}/pre/a%20b/0.json"


def test_a_split_pack_goes_on_where_it_stopped(bucket, tmp_path):
    lock = split_pack(tmp_path / "split", 9)
    bucket.gate.step_in = lambda request: (
        (403, b"") if request.method == "PUT" and "5.json" in request.path else None
    )
    with pytest.raises(OperationError, match=r"5\.json: access is denied"):
        push(lock, tmp_path / "split", f"s3://{bucket.name}/pre/")
    bucket.gate.forget()
    assert bucket.uploads() == []
    there = set(bucket.keys())
    _, files = push(lock, tmp_path / "split", f"s3://{bucket.name}/pre/")
    assert {file.uploaded for file in files} <= {True, False}
    assert {file.url.rpartition("/")[2] for file in files if not file.uploaded} == {
        key.rpartition("/")[2] for key in there
    }
    assert len(bucket.keys()) == 10


def test_one_occupied_place_of_a_split_pack_stops_it_at_the_beginning(bucket, tmp_path):
    lock = split_pack(tmp_path / "split", 3)
    bucket.put("pre/w/big", b"another")
    bucket.gate.forget()
    with pytest.raises(UserError, match=r"At s3://\S+/pre/w/big is another object"):
        push(lock, tmp_path / "split", f"s3://{bucket.name}/pre/")
    assert bucket.gate.sent() == []


class Presigned:
    """A bucket that is written through presigned URLs and read publicly."""

    def __init__(self, bucket: Bucket) -> None:
        bucket.allow_reading()
        bucket.gate.forget()
        self.bucket = bucket
        self.target = bucket.presigned_put("x.tar")
        self.public = self.target.partition("?")[0]
        self.signature = self.target.partition("Signature=")[2]


@pytest.fixture
def presigned(bucket) -> Presigned:
    return Presigned(bucket)


def test_a_presigned_url_takes_the_tarball_and_stays_out_of_the_lock(presigned, tarball):
    lock = packed_file(tarball, LARGE)
    pushed, [file] = push(lock, tarball, presigned.target)
    assert presigned.bucket.get("x.tar") == tarball.read_bytes()
    assert pushed.url == file.url == presigned.public
    assert (file.uploaded, file.read_back) == (True, "answer")


@pytest.mark.parametrize(("etag", "expected"), [(None, "etag"), ('W/"opaque"', "content")])
def test_what_went_through_a_presigned_url_is_read_back(presigned, tarball, etag, expected):
    lock = packed_file(tarball, LARGE)
    presigned.bucket.gate.etag = etag
    pushed, [file] = push(lock, tarball, presigned.target, url=presigned.public)
    assert (pushed.url, file.read_back) == (presigned.public, expected)


def test_a_server_without_md5_proves_nothing(presigned, tarball):
    presigned.bucket.gate.etag = '"opaque"'
    _, [file] = push(packed_file(tarball, SMALL), tarball, presigned.target)
    assert file.read_back is None


def test_a_presigned_url_overwrites_only_when_told(presigned, tarball):
    lock = packed_file(tarball, SMALL)
    presigned.bucket.put("x.tar", b"another")
    with pytest.raises(OperationError, match="412") as refused:
        push(lock, tarball, presigned.target)
    assert "--replace" in refused.value.remedy
    assert presigned.bucket.get("x.tar") == b"another"
    push(lock, tarball, presigned.target, replace=True)
    assert presigned.bucket.get("x.tar") == tarball.read_bytes()


def test_a_public_url_of_something_else_is_found(presigned, tarball):
    lock = packed_file(tarball, SMALL)
    presigned.bucket.put("other", bytes(SMALL))
    presigned.bucket.put("shorter", b"x")
    for key, found in [("other", "something else"), ("shorter", "something else"), ("no", "HTTP")]:
        url = presigned.public.replace("x.tar", key)
        with pytest.raises(OperationError, match=f"can't be read back: .*{found}"):
            push(lock, tarball, presigned.target, url=url, replace=True)


def test_an_altered_tarball_does_not_go_through_a_presigned_url(presigned, tarball):
    lock = packed_file(tarball, LARGE)
    data = bytearray(tarball.read_bytes())
    data[0] ^= 1
    tarball.write_bytes(data)
    with pytest.raises(OperationError, match="another digest"):
        push(lock, tarball, presigned.target)
    assert nothing_left(presigned.bucket)


def test_a_file_too_large_for_one_put_is_refused(presigned, tarball):
    lock = packed_file(tarball, SMALL)
    with tarball.open("wb") as file:
        file.truncate((5 << 30) + 1)
    large = Lock(
        name="l",
        variant=None,
        dtype=None,
        url="x.tar",
        size=(5 << 30) + 1,
        digest=lock.digest,
        files=lock.files,
    )
    with pytest.raises(UserError, match="s3://") as refused:
        push(large, tarball, presigned.target)
    assert "5 GiB" in refused.value.expected
    assert presigned.bucket.gate.requests == []


@pytest.mark.parametrize("status", [400, 403, 307, 500])
def test_no_error_shows_the_signature(presigned, tarball, status):
    lock = packed_file(tarball, SMALL)
    presigned.bucket.gate.step_in = lambda request: (status, presigned.target.encode())
    with pytest.raises(OperationError, match=f"HTTP {status}") as failed:
        push(lock, tarball, presigned.target)
    assert presigned.signature not in "".join(traceback.format_exception(failed.value))


def test_an_unreachable_presigned_url_is_said_without_its_signature(tarball):
    lock = packed_file(tarball, SMALL)
    url = "http://127.0.0.1:9/b/x.tar?X-Amz-Signature=" + "-".join("secret")
    with pytest.raises(OperationError, match="broke") as failed:
        push(lock, tarball, url)
    assert "s-e-c-r-e-t" not in "".join(traceback.format_exception(failed.value))


def test_no_key_of_the_environment_is_in_an_error(bucket, tarball):
    lock = packed_file(tarball, SMALL)
    body = f"<Error><Code>SignatureDoesNotMatch</Code><Key>{SECRET}</Key></Error>".encode()
    bucket.gate.step_in = lambda request: (403, body) if request.method == "PUT" else None
    with pytest.raises(OperationError, match="credentials are refused") as failed:
        push(lock, tarball, f"s3://{bucket.name}/x.tar")
    assert SECRET not in "".join(traceback.format_exception(failed.value))
