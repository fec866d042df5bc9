"""The text-to-video API over HTTP, on the real Cog server with a tiny random pipeline."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from cli.prediction_client import health, predict
from predictors.video import read_video
from weights.errors import OperationError, UserError

QUICK = {"prompt": "a red circle moves right", "num_inference_steps": 2, "seed": 11}


@pytest.fixture(autouse=True)
def stays_healthy(server):
    yield
    # It says BUSY for a moment after it has answered.
    assert health(server.url).status in ("READY", "BUSY")


def test_a_request_becomes_a_video(server, tmp_path):
    prediction = predict(server.url, QUICK)
    (tmp_path / "out.mp4").write_bytes(prediction.output)
    frames, fps = read_video(tmp_path / "out.mp4")
    assert frames.shape == (9, 64, 64, 3)
    assert fps == 8
    assert "Using seed: 11\n" in prediction.logs
    assert "step 2/2" in prediction.logs
    assert set(prediction.metrics["timing"]) == {"encode_prompt", "denoise", "decode", "encode"}


def test_a_seed_gives_the_same_bytes_and_another_seed_others(server):
    first, again, other = (
        predict(server.url, QUICK | {"seed": seed}).output for seed in (11, 11, 12)
    )
    assert first == again
    assert first != other


def test_a_blank_seed_is_drawn_and_printed(server):
    inputs = {name: value for name, value in QUICK.items() if name != "seed"}
    seeds = {predict(server.url, inputs).logs.splitlines()[0] for _ in range(2)}
    assert len(seeds) == 2
    assert all(line.startswith("Using seed: ") for line in seeds)


def test_whole_numbers_may_be_written_as_floats(server):
    logs = predict(server.url, QUICK | {"num_inference_steps": 2.0, "num_frames": 9.0}).logs
    assert "step 2/2" in logs


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompt": ""}, 'prompt: "" is shorter than 1 character'),
        ({"prompt": 5}, 'prompt: 5 is not of type "string"'),
        ({"num_inference_steps": -1}, "num_inference_steps: -1 is less than the minimum of 1"),
        ({"num_inference_steps": 2.5}, 'num_inference_steps: 2.5 is not of type "integer"'),
        ({"num_inference_steps": 501}, "num_inference_steps: 501 is greater than"),
        ({"guidance_scale": "high"}, "guidance_scale: "),
        ({"guidance_scale": 21}, "guidance_scale: 21 is greater than the maximum of 20"),
        ({"num_frames": "nine"}, "num_frames: "),
        ({"seed": -1}, "seed: -1 is less than the minimum of 0"),
        ({"seed": 2**31}, "seed: 2147483648 is greater than the maximum of 2147483647"),
    ],
)
def test_invalid_inputs_are_refused_with_the_reason(server, inputs, message):
    with pytest.raises(UserError) as caught:
        predict(server.url, QUICK | inputs)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"num_frames": 12}, "num_frames is 12. nano makes 9 frames. Use 9, or leave it blank"),
        ({"prompt": "  "}, "prompt is blank."),
    ],
)
def test_what_the_variant_can_not_do_fails_with_the_reason(server, inputs, message):
    with pytest.raises(OperationError) as caught:
        predict(server.url, QUICK | inputs)
    assert message in str(caught.value)


def test_cog_drops_unknown_inputs_before_we_see_them(server):
    """Which is why `cogvideox predict` refuses them itself (tests/cli/test_predict.py)."""
    assert (
        predict(server.url, QUICK | {"prompts": "typo"}).output == predict(server.url, QUICK).output
    )


def test_cancelling_ends_a_long_run_at_once_and_frees_the_worker(server):
    position = server.lines.position()
    long = {"input": QUICK | {"num_inference_steps": 500}}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            requests.put, f"{server.url}/predictions/long", json=long, timeout=(10, 60)
        )
        server.lines.wait_for("step 10/500", since=position)
        requests.post(f"{server.url}/predictions/long/cancel", timeout=10).raise_for_status()
        assert running.result().json()["status"] == "canceled"
    predict(server.url, QUICK)
    last_step = [line for line in server.lines.since(position) if "/500" in line][-1]
    assert int(last_step.split()[1].split("/")[0]) < 100


def begin(server, name, *, steps):
    """Begin a prediction; a server whose slot is just being freed refuses it for a moment."""
    body = {"input": QUICK | {"num_inference_steps": steps}}
    headers = {"Prefer": "respond-async"}
    for _ in range(1000):
        answer = requests.put(
            f"{server.url}/predictions/{name}", json=body, headers=headers, timeout=10
        )
        if answer.status_code != 409:
            break
    answer.raise_for_status()


def test_a_run_after_a_cancelled_one_gives_what_it_gave_before(server):
    expected = predict(server.url, QUICK).output
    position = server.lines.position()
    begin(server, "c", steps=500)
    server.lines.wait_for("step 10/500", since=position)
    requests.post(f"{server.url}/predictions/c/cancel", timeout=10).raise_for_status()
    assert predict(server.url, QUICK).output == expected


def test_a_busy_server_answers_409_and_the_client_waits_for_it(server):
    position = server.lines.position()
    begin(server, "busy", steps=200)
    server.lines.wait_for("/200", since=position)
    refused = requests.post(f"{server.url}/predictions", json={"input": QUICK}, timeout=10)
    assert refused.status_code == 409
    assert predict(server.url, QUICK).output
    assert any("step 200/200" in line for line in server.lines.since(position))
