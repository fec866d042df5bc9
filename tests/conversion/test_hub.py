"""The real hub client against a stand-in of the hub on loopback, as far as the calls go.

The stand-in takes every file as a regular one: uploads of large files (LFS, Xet) are the client's
own business and are not exercised.
"""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conversion.convert import convert
from conversion.hub import model_card, push, reserve
from conversion.plan import plan_conversion
from weights.errors import OperationError, UserError


class HubStandIn(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_test":
            return self.answer(401, {"error": "no token"})
        if self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            return self.answer(200, {"url": f"{self.server.url}/me/model"})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if self.path.endswith("/commit/main"):
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                if line["key"] == "file":
                    value = line["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            return self.answer(
                200, {"commitUrl": f"{self.server.url}/me/model/commit/0", "commitOid": "0" * 40}
            )
        return self.answer(404, {"error": self.path})

    def do_GET(self):
        if self.headers.get("Authorization") != "Bearer hf_test":
            return self.answer(401, {"error": "no token"})
        return self.answer(200, {"id": "me/model", "sha": "0" * 40, "siblings": []})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), HubStandIn) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.files, server.created = {}, None
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def nano_folder(nano_sat, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder") / "nano"
    convert(plan_conversion(nano_sat), folder)
    return folder


def test_every_file_and_a_model_card_are_uploaded(hub, nano_folder):
    reserve("me/model")
    assert hub.created["visibility"] == "private"
    assert push(nano_folder, "me/model") == f"{hub.url}/me/model"
    expected = {
        p.relative_to(nano_folder).as_posix(): p.read_bytes()
        for p in nano_folder.rglob("*")
        if p.is_file()
    }
    card = hub.files.pop("README.md").decode()
    assert hub.files == expected
    assert "pipeline_tag: text-to-video" in card


def test_a_refused_token_is_explained_and_not_shown(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(OperationError, match=r"401.*hf auth login") as refusal:
        reserve("me/model")
    assert "hf_other" not in str(refusal.value)


@pytest.mark.parametrize("name", ["a/b/c", "../up", "has space/x"])
def test_a_name_that_is_none_is_refused(name, hub):
    with pytest.raises(UserError):
        reserve(name)
    assert hub.files == {}


def test_a_card_states_the_licence_of_the_weights(nano_folder):
    record = json.loads((nano_folder / "conversion.json").read_bytes())
    assert "license: apache-2.0" in model_card(record, "me/model")
    card = model_card(record | {"variant": "cogvideox-5b-i2v"}, "me/model")
    assert "license_name: cogvideox-license" in card
    assert "CogVideoXImageToVideoPipeline" in card
    assert "image-to-video" in card
