"""The image-to-video API over HTTP, on the real Cog server with a tiny random pipeline."""

import base64
import io

import pytest
from PIL import Image

from cli.prediction_client import health, predict
from predictors.video import read_video
from weights.errors import OperationError, UserError


def data_uri(image, file_format="PNG"):
    file = io.BytesIO()
    image.save(file, file_format)
    return f"data:image/{file_format.lower()};base64," + base64.b64encode(file.getvalue()).decode()


IMAGE = data_uri(Image.linear_gradient("L").resize((96, 64)))
QUICK = {"image": IMAGE, "prompt": "it moves", "num_inference_steps": 2, "seed": 11}


@pytest.fixture(autouse=True)
def stays_healthy(i2v_server):
    yield
    assert health(i2v_server.url).status in ("READY", "BUSY")


def test_an_image_becomes_a_video(i2v_server, tmp_path):
    prediction = predict(i2v_server.url, QUICK)
    (tmp_path / "out.mp4").write_bytes(prediction.output)
    frames, fps = read_video(tmp_path / "out.mp4")
    assert frames.shape == (9, 64, 64, 3)
    assert fps == 8
    assert set(prediction.metrics["timing"]) == {"encode_prompt", "denoise", "decode", "encode"}


def test_a_seed_gives_the_same_bytes_and_another_image_others(i2v_server):
    other = QUICK | {"image": data_uri(Image.new("RGB", (96, 64), "red"))}
    first, again, different = (
        predict(i2v_server.url, inputs).output for inputs in (QUICK, QUICK, other)
    )
    assert first == again
    assert first != different


def test_how_the_image_fits_matters(i2v_server):
    outputs = {
        predict(i2v_server.url, QUICK | {"image_fit": fit}).output
        for fit in ("crop", "pad", "stretch")
    }
    assert len(outputs) == 3


def test_without_an_image_it_is_refused(i2v_server):
    with pytest.raises(UserError, match="image"):
        predict(i2v_server.url, {"prompt": "it moves"})


@pytest.mark.parametrize("text", ["/etc/hostname", "file:///etc/hostname", ""])
def test_a_file_of_the_server_is_never_read(i2v_server, text):
    with pytest.raises(OperationError, match="image is not a file that was sent along"):
        predict(i2v_server.url, QUICK | {"image": text})


def test_what_is_no_image_fails_with_the_reason(i2v_server):
    with pytest.raises(OperationError, match="image is not a picture of a known format"):
        predict(i2v_server.url, QUICK | {"image": "data:image/png;base64,AAAA"})


def test_an_address_inside_is_not_asked(i2v_server):
    with pytest.raises(OperationError, match="not on the public internet"):
        predict(i2v_server.url, QUICK | {"image": f"{i2v_server.url}/openapi.json"})
