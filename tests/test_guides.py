"""What docs/api.md and docs/deploy.md show works: examples run, commands parse, lists are whole."""

import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml
from PIL import Image

from cli.main import _parser, main
from cli.prediction_client import health
from cli.runners import ROOT
from cli.server import free_port
from predictors.speed import computed_steps
from predictors.video import read_video
from weights.variants import VARIANTS

API, DEPLOY = ROOT / "docs" / "api.md", ROOT / "docs" / "deploy.md"
BIN = Path(sys.executable).parent
# Nano's own number of steps would take a while. Every way the examples spell the seed.
FEWER_STEPS = {
    '"seed": 7': '"seed": 7, "num_inference_steps": 2',
    " seed: 7": " seed: 7, num_inference_steps: 2",
    "seed=7)": "seed=7, num_inference_steps=2)",
    "-i seed=7": "-i seed=7 -i num_inference_steps=2",
}
INTERPRETERS = {
    "sh": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-c"],
    "js": ["node", "--input-type=module", "-e"],
}
JSON = {"Content-Type": "application/json"}
NEEDS = {"sh": {"curl", "jq"}, "python": set(), "js": {"node"}}


@dataclass(frozen=True)
class Block:
    """A fenced block of a guide, and the line it begins in."""

    language: str
    text: str
    line: int

    def __str__(self):
        return f"{self.language}-{self.line}"


def blocks(guide, *languages):
    text = guide.read_text(encoding="utf-8")
    found = [
        Block(match[1], match[2], text[: match.start()].count("\n") + 1)
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]
    assert len(found) == text.count("```") / 2, f"{guide} has a fence that is not read"
    return [block for block in found if not languages or block.language in languages]


def commands(guide):
    """The commands of a guide's shell blocks, each on one line."""
    for block in blocks(guide, "sh"):
        yield from block.text.replace("\\\n", " ").splitlines()


def documented_json(text):
    """The JSON of the API's guide that holds `text`."""
    (block,) = [block for block in blocks(API, "json") if text in block.text]
    return json.loads(block.text)


RUN_HERE, _ = API.read_text(encoding="utf-8").split("\n## On Replicate\n")
EXAMPLES = [block for block in blocks(API, *INTERPRETERS) if block.line <= RUN_HERE.count("\n")]


@pytest.fixture
def run_example(tmp_path, request):
    """Runs an example in a folder with a photo, against the servers it addresses."""

    def run(block):
        missing = [tool for tool in NEEDS[block.language] if not shutil.which(tool)]
        if missing:
            pytest.skip(f"needs {' and '.join(missing)}")
        text = block.text.replace("8080", str(free_port()))
        for port, fixture in {"5001": "server", "5002": "i2v_server"}.items():
            if f"http://127.0.0.1:{port}" in text:
                url = request.getfixturevalue(fixture).url
                wait_until_idle(url)
                text = text.replace(f"http://127.0.0.1:{port}", url)
        for spelled, fewer in FEWER_STEPS.items():
            text = text.replace(spelled, fewer)
        assert "num_inference_steps" in text or "out.mp4" not in text
        done = subprocess.run(
            [*INTERPRETERS[block.language], text],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "CURL_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    Image.new("RGB", (90, 60), "teal").save(tmp_path / "photo.jpg")
    (tmp_path / ".curlrc").write_text("fail\n")  # An error's HTTP status is curl's exit code.
    return run


def wait_until_idle(url):
    """An example before may have left the server at work."""
    while health(url).status == "BUSY":
        pass


def test_there_are_examples_in_every_language():
    assert {block.language for block in EXAMPLES} == set(INTERPRETERS)


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_the_example_runs(block, run_example, tmp_path):
    output = run_example(block)
    if "out.mp4" in block.text:
        frames, _ = read_video(tmp_path / "out.mp4")
        assert frames.shape == (9, 64, 64, 3)
    elif "/cancel" in block.text:
        assert output == '{"id":"order-4713","status":"starting"}{}'
    else:
        assert output == "READY\n"


@pytest.mark.parametrize(
    ("method", "path", "settings", "status"),
    [
        (
            "POST",
            "/predictions",
            {"data": "{", "headers": {"Content-Type": "application/json"}},
            400,
        ),
        ("POST", "/predictions/nobody/cancel", {}, 404),
        ("GET", "/predictions/nobody", {}, 405),
        ("POST", "/predictions", {"json": {}, "headers": {"Accept": "text/event-stream"}}, 406),
        ("POST", "/predictions", {"json": {"input": {"seed": None}}}, 422),
    ],
)
def test_the_server_answers_as_the_guide_says(server, method, path, settings, status):
    wait_until_idle(server.url)
    response = requests.request(method, server.url + path, **settings, timeout=60)
    assert response.status_code == status
    assert re.search(rf"^\| (\d+, )*{status}\b", RUN_HERE, re.MULTILINE)


def test_a_body_over_the_limit_is_413(server):
    body = b'{"input": {"prompt": "' + b"x" * 100 * 2**20 + b'"}}'
    assert requests.post(f"{server.url}/predictions", body, headers=JSON).status_code == 413


def test_the_errors_are_those_the_guide_shows(server):
    def answer(**inputs):
        wait_until_idle(server.url)
        return requests.post(f"{server.url}/predictions", json={"input": inputs}).json()

    assert answer(seed=-1) == documented_json("detail")
    failed = answer(num_frames=10)
    documented = documented_json("num_frames is 10")
    assert {name: failed[name] for name in documented} == documented


def test_the_metrics_are_those_the_guide_lists(server):
    wait_until_idle(server.url)
    inputs = {"num_inference_steps": 2}
    answer = requests.post(f"{server.url}/predictions", json={"input": inputs}).json()
    table = RUN_HERE.split("## Metrics")[1].split("\n## ")[0]
    documented = set(re.findall(r"`([a-z_.]+)`", table))
    timing = {f"timing.{name}" for name in answer["metrics"].pop("timing")}
    assert set(answer["metrics"]) | timing <= documented
    assert set(documented_json("predict_time")["metrics"]) <= {*answer["metrics"], "timing"}


@pytest.mark.parametrize("guide", [API, DEPLOY], ids=lambda guide: guide.stem)
def test_the_commands_parse(guide):
    ours = [line for line in commands(guide) if line.startswith("cogvideox ")]
    assert ours
    for line in ours:
        _, verb, *arguments = shlex.split(line)
        _parser(verb).parse_args(arguments)


def test_a_config_of_ones_own_is_made_by_the_command(tmp_path):
    (tmp_path / "cog.yaml").write_bytes((ROOT / "cog.yaml").read_bytes())
    making = [line for line in commands(DEPLOY) if line.endswith("> cog-mine.yaml")]
    assert len(making) == 2
    for line in making:
        subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
        config = yaml.safe_load((tmp_path / "cog-mine.yaml").read_text())
        assert config["run"] == "predict_t2v.py:Runner"
        (setting,) = config["environment"]
        assert re.fullmatch(r"COGVIDEOX_WEIGHTS=/src/(weights/locks/)?mine(\.lock\.json)?", setting)


@pytest.mark.parametrize("name", ["cogvideox-2b", "cogvideox1.5-5b", "cogvideox1.5-5b-i2v"])
def test_the_config_of_a_released_model_is_made_by_the_command(name, tmp_path):
    task = VARIANTS[name].task
    for config in ("cog.yaml", "cog-i2v.yaml"):
        (tmp_path / config).write_bytes((ROOT / config).read_bytes())
    (making,) = [line for line in commands(DEPLOY) if f"COGVIDEOX_WEIGHTS={name}\\n" in line]
    subprocess.run(["bash", "-c", making], cwd=tmp_path, check=True)
    config = yaml.safe_load((tmp_path / making.split()[-1]).read_text())
    assert config["run"] == f"predict_{task}.py:Runner"
    assert config["environment"] == [f"COGVIDEOX_WEIGHTS={name}"]
    assert f"cp checkpoints/{name}.lock.json weights/locks/" in commands(DEPLOY)


def test_every_setting_is_in_the_table():
    sources = [ROOT / "cli", ROOT / "predictors", ROOT / "weights"]
    code = "".join(
        file.read_text(encoding="utf-8") for folder in sources for file in folder.rglob("*.py")
    )
    table = DEPLOY.read_text(encoding="utf-8").split("### Settings")[1].split("\n### ")[0]
    documented = re.findall(r"^\| `(COGVIDEOX_[A-Z_]+)`", table, re.MULTILINE)
    assert sorted(documented) == sorted(set(re.findall(r"COGVIDEOX_[A-Z_]*[A-Z]", code)))


def test_the_table_of_cards_is_what_the_planner_says(capsys):
    text = DEPLOY.read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if " GB | " in line]
    names = re.search(r"^\| card \| (.*) \|$", text, re.MULTILINE)[1].replace("`", "").split(" | ")
    assert rows
    for card, *placements in rows:
        assert main(["plan", *names, "--gpu-memory", card.removesuffix(" GB"), "--json"]) == 0
        plans = json.loads(capsys.readouterr().out)["plans"]
        assert placements == [plan["policy"]["placement"] for plan in plans], card


def test_the_steps_that_a_preset_computes_are_those_the_guide_says():
    computed = {speed: sum(computed_steps(speed, 50)) for speed in ("balanced", "fast")}
    sentence = (
        r"Of 50,\s+`balanced` computes (\d+) in full and `fast` (\d+);\s+of up to (\d+), "
        r"`balanced` computes all, of up to\s+(\d+) `fast`"
    )
    balanced, fast, *few = map(int, re.search(sentence, RUN_HERE).groups())
    assert computed == {"balanced": balanced, "fast": fast}
    for speed, steps in zip(computed, few, strict=True):
        assert sum(computed_steps(speed, steps)) == steps
        assert sum(computed_steps(speed, steps + 1)) < steps + 1


def kubernetes(kind):
    (block,) = blocks(DEPLOY, "yaml")
    (found,) = [doc for doc in yaml.safe_load_all(block.text) if doc["kind"] == kind]
    return found


def test_the_kubernetes_objects_fit_together():
    deployment = kubernetes("Deployment")["spec"]
    pod = deployment["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert kubernetes("Service")["spec"]["selector"] == labels
    assert kubernetes("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    (port,) = container["ports"]
    (service_port,) = kubernetes("Service")["spec"]["ports"]
    assert (port["containerPort"], service_port["targetPort"]) == (5000, port["name"])
    (volume,) = pod["spec"]["volumes"]
    (mount,) = container["volumeMounts"]
    claim = kubernetes("PersistentVolumeClaim")["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim
    assert mount["name"] == volume["name"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["COGVIDEOX_CACHE"] == mount["mountPath"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert f"docker push {container['image']}" in commands(DEPLOY)
    assert pod["spec"]["terminationGracePeriodSeconds"] >= 600


def probe(kind, url):
    """Whether a probe of the Deployment succeeds with the server at `url`."""
    (container,) = kubernetes("Deployment")["spec"]["template"]["spec"]["containers"]
    python, *arguments = container[kind]["exec"]["command"]
    assert python == "python"
    *options, code = arguments
    assert "http://127.0.0.1:5000" in code
    command = [sys.executable, *options, code.replace("http://127.0.0.1:5000", url)]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


@contextmanager
def answering(status):
    """A server that answers as coglet does in the state `status`, which is 200 in every state."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/health-check"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"status": status, "setup": {}}).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "ready", "alive"),
    [
        ("STARTING", False, True),
        ("READY", True, True),
        ("BUSY", False, True),
        ("SETUP_FAILED", False, False),
        ("UNHEALTHY", False, False),
        ("DEFUNCT", False, False),
    ],
)
def test_the_probes_tell_the_states_apart(status, ready, alive):
    with answering(status) as url:
        assert (probe("readinessProbe", url), probe("livenessProbe", url)) == (ready, alive)


def test_the_probes_find_the_real_server_ready_and_a_closed_port_dead(server):
    wait_until_idle(server.url)
    nowhere = f"http://127.0.0.1:{free_port()}"
    for kind in ("readinessProbe", "livenessProbe"):
        assert probe(kind, server.url)
        assert not probe(kind, nowhere)


@pytest.mark.parametrize("guide", [API, DEPLOY], ids=lambda guide: guide.stem)
def test_the_links_lead_somewhere(guide):
    text = guide.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = target.partition("#")
        linked = (guide.parent / name).resolve() if name else guide
        assert linked.is_file(), target
        headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings]
        assert not anchor or anchor in anchors, target
