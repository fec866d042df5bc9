"""Buckets: signed URLs that can be read, and errors that say what is wrong and hold no secret."""

import re
import traceback
from urllib.parse import quote

import pytest
import requests

from tests.weights.pushing.s3_servers import SECRET, Bucket, running_moto
from weights.buckets import bucket_errors, object_key, open_bucket, signed_url
from weights.errors import OperationError, UserError
from weights.pushing.objects import put, stored_object


@pytest.fixture(scope="module")
def moto():
    with running_moto() as server:
        yield server


@pytest.fixture
def bucket(moto, monkeypatch) -> Bucket:
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    moto.gate.forget()
    return moto.new_bucket()


@pytest.mark.parametrize("key", ["x.tar", "a b/ä.tar", "100%25.tar", "a#b?c", "a+b=c&d"])
def test_a_signed_url_gives_ranges_of_a_private_object(bucket, key):
    bucket.put(key, b"0123456789")
    url = signed_url(f"s3://{bucket.name}/{quote(key)}", hours=1)
    answer = requests.get(url, headers={"Range": "bytes=3-5"})
    assert (answer.status_code, answer.content) == (206, b"345")
    assert requests.get(url.partition("?")[0]).status_code == 403
    assert "X-Amz-Expires=3600&" in url


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("s3://b/x.tar", "x.tar"),
        ("gs://b/a%20b/%C3%A4.tar", "a b/ä.tar"),
        ("az://c/a/b/", "a/b/"),
        ("s3://b/100%2525.tar", "100%25.tar"),
        ("s3://b/", ""),
        ("s3://b", ""),
    ],
)
def test_the_key_is_the_decoded_path(url, key):
    assert object_key(url) == key


@pytest.mark.parametrize(
    "url",
    [
        "https://b/x.tar",
        "S3://b/x.tar",
        "s3:///x.tar",
        "s3:x",
        "x.tar",
        "s3://b/x.tar?versionId=1",
        "s3://b/x#y",
        "s3://b//x.tar",
        "s3://b//",
        "s3://b/a//x.tar",
        "s3://b/./x.tar",
        "s3://b/a/%2E%2E/x.tar",
        "s3://key:secret@b/x.tar",
        "s3://b:x/x.tar",
        "s3://b\n/x.tar",
    ],
)
def test_what_is_no_url_of_an_object_is_refused(url):
    with pytest.raises(UserError, match="not the URL of an object") as refused:
        signed_url(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("key", ["a%20b.tar", "%C3%A4.tar", "100%25.tar"])
def test_a_key_that_obstore_signs_wrongly_for_azure_is_refused(key):
    with pytest.raises(UserError, match="can't be signed for Azure"):
        object_key(f"az://container/{key}")
    object_key(f"gs://bucket/{key}")


def test_missing_credentials_are_said(bucket, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match="no credentials"):
        signed_url(f"s3://{bucket.name}/x.tar")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match="no credentials") as refused:
        signed_url(f"s3://{bucket.name}/x.tar")
    assert refused.value.exit_code == 2


def test_a_missing_storage_account_is_said(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(UserError, match="no storage account"):
        signed_url("az://container/x.tar")


def test_a_missing_bucket_is_said_and_a_missing_object_is_none(bucket):
    assert stored_object(open_bucket(f"s3://{bucket.name}"), f"s3://{bucket.name}/x") is None
    with pytest.raises(UserError, match="no such bucket"):
        stored_object(open_bucket("s3://not-there"), "s3://not-there/x")


def test_plain_http_is_allowed_by_the_environment_only(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(UserError, match="AWS_ALLOW_HTTP=true"):
        stored_object(open_bucket(f"s3://{bucket.name}"), f"s3://{bucket.name}/x")


def test_an_unreachable_server_is_said(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OperationError, match="can't be reached"):
        stored_object(open_bucket(f"s3://{bucket.name}"), f"s3://{bucket.name}/x")


@pytest.mark.parametrize(
    ("status", "code", "error", "match"),
    [
        (301, "PermanentRedirect", UserError, "another region.*AWS_REGION"),
        (400, "", UserError, "another region.*AWS_REGION"),
        (400, "ExpiredToken", OperationError, "refused"),
        (401, "", OperationError, "refused"),
        (403, "", OperationError, "denied"),
        (403, "SignatureDoesNotMatch", OperationError, "refused"),
        (418, "", OperationError, "HTTP 418"),
        (501, "NotImplemented", OperationError, "HTTP 501"),
        (503, "SlowDown", OperationError, "HTTP 503"),
    ],
)
def test_each_answer_of_a_server_has_words_of_ours(bucket, status, code, error, match):
    body = f"<Error><Code>{code}</Code><CanonicalRequest>{SECRET}</CanonicalRequest></Error>"
    # S3 tells the code in the body, which the answer to a HEAD does not have.
    bucket.gate.step_in = lambda request: (status, body.encode())
    store, url = open_bucket(f"s3://{bucket.name}"), f"s3://{bucket.name}/503-status code: x"
    with pytest.raises(UserError, match=match) as failed, bucket_errors(url):
        store.get("x") if code else store.head("x")
    assert type(failed.value) is error
    shown = "".join(traceback.format_exception(failed.value))
    assert not re.search(f"{SECRET}|CanonicalRequest|Debug source", shown)


def test_a_server_without_conditions_is_said(bucket):
    bucket.gate.step_in = lambda request: (501, b"") if request.method == "PUT" else None
    store, url = open_bucket(f"s3://{bucket.name}"), f"s3://{bucket.name}/x"
    with pytest.raises(OperationError, match="--replace"):
        put(store, url, b"", {}, "create")
