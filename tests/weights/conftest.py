"""A weights folder of a few hundred bytes, and a web server on this machine."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from weights.lock import Lock
from weights.packing.tarball import pack

if TYPE_CHECKING:
    from tests.weights.surroundings import Surroundings


def safetensors_bytes(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def shard(name: str) -> bytes:
    span = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    return safetensors_bytes({name: span, "__metadata__": {"format": "pt"}}, bytes(range(24)))


def weights_files() -> dict[str, bytes]:
    """What a diffusers folder holds, by path."""
    documents = {
        "model_index.json": {
            "_class_name": "CogVideoXPipeline",
            "_diffusers_version": "0.42.1",
            "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
            "text_encoder": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "T5Tokenizer"],
            "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
            "vae": ["diffusers", "AutoencoderKLCogVideoX"],
            "feature_extractor": [None, None],
        },
        "conversion.json": {"variant": "nano", "dtype": "float32", "tool": "0.1.0"},
        "scheduler/scheduler_config.json": {"snr_shift_scale": 1.0},
        "tokenizer/tokenizer_config.json": {},
        "text_encoder/config.json": {},
        "transformer/config.json": {"num_layers": 4},
        "transformer/diffusion_pytorch_model.safetensors.index.json": {
            "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}
        },
        "vae/config.json": {},
    }
    return {path: json.dumps(document).encode() for path, document in documents.items()} | {
        "text_encoder/model.safetensors": shard("shared"),
        "transformer/model-1.safetensors": shard("a"),
        "transformer/model-2.safetensors": shard("b"),
        "vae/diffusion_pytorch_model.safetensors": shard("conv"),
    }


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def files() -> dict[str, bytes]:
    return weights_files()


@pytest.fixture
def folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    return write_files(tmp_path / "weights", files)


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Lock:
    """The lock of weights.tar in tmp_path."""
    return pack(folder, tmp_path / "weights.tar")


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """As `tmp_path`, in memory where Linux has a folder there: every install waits for its disk."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def around(quick_path: Path) -> "Surroundings":
    from tests.weights.surroundings import Surroundings

    return Surroundings(quick_path / "place")


Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers GETs as told, by path, and keeps what was asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                server.answers[self.path.partition("?")[0]](self)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Clients that were killed or gave up are what some tests are about, no news.
        self._http.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def serve(self, path: str, data: bytes, *, announce: int | None = None) -> str:
        """Answer `path` with `data`, announcing its length or another one."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data) if announce is None else announce))
            handler.end_headers()
            handler.wfile.write(data)

        self.answers[path] = answer
        return f"{self.url}{path}"

    def serve_halves(self, path: str, data: bytes) -> tuple[str, threading.Event, threading.Event]:
        """Answer with the first half, set the first event, wait for the second, send the rest."""
        halfway, go_on = threading.Event(), threading.Event()

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[: len(data) // 2])
            halfway.set()
            go_on.wait(60)
            try:
                handler.wfile.write(data[len(data) // 2 :])
            except OSError:  # the client was killed, as some tests do
                handler.close_connection = True

        self.answers[path] = answer
        return f"{self.url}{path}", halfway, go_on

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()
