"""manifest.jsonl in a bucket: records come as objects of their own, and then into the one."""

import pytest

from sampling import bucket_log
from sampling.manifest import Manifest
from sampling.open_store import open_store
from sampling.output_store import OutputError, OutputStore
from tests.sampling.records import DONE, FAILED, of_line
from tests.weights.pushing.s3_servers import Bucket
from weights.errors import UserError


@pytest.fixture
def in_bucket(bucket) -> OutputStore:
    return open_store(f"s3://{bucket.name}/runs/one")


def test_closing_brings_all_records_into_one_object(in_bucket, bucket):
    manifest = Manifest(in_bucket)
    manifest.append(FAILED)
    manifest.append(DONE)
    apart = bucket.keys()
    assert len(apart) == 2
    assert all(key.startswith("runs/one/manifest/000001-") for key in apart)
    manifest.close()
    assert bucket.keys() == ["runs/one/manifest.jsonl"]
    lines = bucket.get("runs/one/manifest.jsonl")
    assert lines == FAILED.to_json() + b"\n" + DONE.to_json() + b"\n"
    bucket.gate.forget()
    Manifest(in_bucket).close()
    assert bucket.gate.sent() == []


def test_records_come_into_the_one_object_now_and_then(in_bucket, bucket, monkeypatch):
    monkeypatch.setattr(bucket_log, "_COMPACT_EVERY", 3)
    manifest = Manifest(in_bucket)
    for line in range(1, 8):
        manifest.append(of_line(line))
    assert len(bucket.keys()) == 2
    assert bucket.get("runs/one/manifest.jsonl").count(b"\n") == 6
    assert set(Manifest(in_bucket).records()) == set(range(1, 8))


def test_a_manifest_without_a_last_line_break_is_gone_on_with(in_bucket, bucket):
    bucket.put("runs/one/manifest.jsonl", DONE.to_json())
    manifest = Manifest(in_bucket)
    manifest.append(of_line(2))
    manifest.close()
    assert Manifest(in_bucket).records() == {1: DONE, 2: of_line(2)}
    assert bucket.keys() == ["runs/one/manifest.jsonl"]


def test_a_bad_object_is_named(in_bucket, bucket):
    bucket.put("runs/one/manifest/000001-x.json", b"not JSON")
    with pytest.raises(UserError, match=r"runs/one/manifest/000001-x\.json is no record"):
        Manifest(in_bucket).records()


def at_request(bucket: Bucket, method: str, key: str, act, number: int = 1) -> None:
    """Call `act` once, before moto answers the request of this `number` among its like."""
    seen = []

    def step_in(request):
        if request.method == method and request.path.endswith(key):
            seen.append(request)
            if len(seen) == number:
                bucket.gate.step_in = lambda _: None
                act()

    bucket.gate.step_in = step_in


def test_of_two_who_compact_at_once_neither_loses_a_record(in_bucket, bucket):
    one, other = Manifest(in_bucket), Manifest(in_bucket)
    one.append(FAILED)

    def meanwhile() -> None:
        other.append(of_line(2))
        other.append(DONE)
        other.close()

    at_request(bucket, "PUT", "/manifest.jsonl", meanwhile)
    one.close()
    assert Manifest(in_bucket).records() == {1: DONE, 2: of_line(2)}
    assert bucket.keys() == ["runs/one/manifest.jsonl"]


@pytest.mark.parametrize(
    ("key", "number"),
    # When it has seen that there is no manifest.jsonl, and when it has read the others.
    [("", 1), ("/manifest.jsonl", 2)],
)
def test_a_reader_sees_what_comes_into_the_one_object_meanwhile(in_bucket, bucket, key, number):
    writer = Manifest(in_bucket)
    writer.append(FAILED)
    writer.append(of_line(2))

    def meanwhile() -> None:
        writer.append(DONE)
        writer.close()

    at_request(bucket, "GET", key or bucket.name, meanwhile, number)
    assert Manifest(in_bucket).records() == {1: DONE, 2: of_line(2)}
    assert bucket.keys() == ["runs/one/manifest.jsonl"]


@pytest.mark.parametrize("batches", [0, 1])
def test_a_compaction_that_is_killed_while_it_removes_changes_nothing(
    in_bucket, bucket, monkeypatch, batches
):
    manifest = Manifest(in_bucket)
    for record in (FAILED, of_line(2), DONE):
        manifest.append(record)
    seen = []

    def refuse_after(request):
        if request.method == "POST" and "delete" in request.query:
            seen.append(request)
            if len(seen) > batches:
                return 403, b"<Error><Code>AccessDenied</Code></Error>"
        return None

    bucket.gate.step_in = refuse_after
    with pytest.raises(OutputError):
        manifest.close()
    bucket.gate.forget()
    assert len(bucket.keys()) == 4 - batches
    assert Manifest(in_bucket).records() == {1: DONE, 2: of_line(2)}
    Manifest(in_bucket).close()
    assert bucket.keys() == ["runs/one/manifest.jsonl"]
    assert Manifest(in_bucket).records() == {1: DONE, 2: of_line(2)}


def test_a_bucket_that_refuses_a_record_is_an_output_error(in_bucket, bucket):
    manifest = Manifest(in_bucket)
    bucket.gate.step_in = lambda request: (403, b"") if request.method == "PUT" else None
    with pytest.raises(OutputError, match="access is denied"):
        manifest.append(DONE)
    bucket.gate.forget()
    assert Manifest(in_bucket).records() == {}


def test_a_compaction_that_fails_does_not_end_the_run(in_bucket, bucket, monkeypatch):
    monkeypatch.setattr(bucket_log, "_COMPACT_EVERY", 2)
    manifest = Manifest(in_bucket)
    refused = []

    def refuse(request):
        if request.method == "PUT" and request.path.endswith("/manifest.jsonl"):
            refused.append(request)
            return 403, b""
        return None

    bucket.gate.step_in = refuse
    manifest.append(DONE)
    manifest.append(of_line(2))
    assert refused
    assert Manifest(in_bucket).records() == {1: DONE, 2: of_line(2)}
    with pytest.raises(OutputError):
        manifest.close()


def test_many_objects_are_read(in_bucket, bucket):
    manifest = Manifest(in_bucket)
    for line in range(60):
        manifest.append(of_line(line))
    assert set(Manifest(in_bucket).records()) == set(range(60))
