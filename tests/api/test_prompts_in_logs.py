"""Where the operator wants no prompts in the log, none is in it, Cog's own lines included."""

import requests

from cli.runners import RUNNERS
from cli.server import running_server
from cli.server_log import ServerLog

PROMPTS = {"prompt": "zebracorn " * 40, "negative_prompt": "unicornfish " * 40}


def logged(folder, monkeypatch, log_prompts):
    """Every line of a server's output while it answers requests, good and bad ones."""
    lines = []
    own = ServerLog._take

    def take(self, line):
        lines.append(line)
        own(self, line)

    monkeypatch.setattr(ServerLog, "_take", take)
    monkeypatch.setenv("COG_LOG_LEVEL", "debug")
    monkeypatch.setenv("COGVIDEOX_LOG_PROMPTS", log_prompts)
    with running_server(RUNNERS["t2v"], weights=str(folder), on_line=lambda _: None) as server:
        for changed in ({}, {"width": 5}, {"num_inference_steps": 0}, {"lora": "x y"}):
            inputs = PROMPTS | {"num_inference_steps": 1} | changed
            requests.post(f"{server.url}/predictions", json={"input": inputs}, timeout=60)
    assert any("encode_prompt" in line for line in lines)
    return "\n".join(lines)


def test_no_prompt_is_logged_unless_it_is_wanted(tiny_folder, monkeypatch):
    quiet = logged(tiny_folder, monkeypatch, "0")
    assert "zebracorn" not in quiet
    assert "unicornfish" not in quiet
    assert "zebracorn" in logged(tiny_folder, monkeypatch, "1")
