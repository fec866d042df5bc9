"""Hostile images through the real server: each is a video or a reason, and it stays healthy."""

import base64
from collections import Counter

from cli.prediction_client import health
from tests.api.test_fuzz import check_answer, post
from tests.attacks.image_attacks import attacks

IMAGES = 120


def test_hostile_images_harm_nothing(i2v_server):
    # Expensive ones are for tests/attacks/test_image_attacks.py, without a server around them.
    cheap = [data for name, data in attacks() if not name.startswith("expensive-")]
    chosen = cheap[:: len(cheap) // IMAGES]
    assert len(chosen) >= IMAGES
    counts = Counter()
    for data in chosen:
        image = "data:image/png;base64," + base64.b64encode(data).decode()
        inputs = {"image": image, "prompt": "it moves", "num_inference_steps": 1}
        check_answer(post(i2v_server.url, {"input": inputs}), {"input": inputs}, counts)
    assert counts.keys() == {"succeeded", "failed"}
    assert health(i2v_server.url).status in ("READY", "BUSY")
