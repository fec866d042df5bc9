"""`cogvideox sample --parallel 2` makes the videos that one process makes."""

import json

import av
import numpy as np
import pytest

from cli.main import main

pytestmark = pytest.mark.slow

# Guidance in one line only: both share their tokens.
LINES = [
    {"prompt": "a", "guidance_scale": 1},
    {"prompt": "b", "guidance_scale": 6},
    {"prompt": "", "guidance_scale": 6},
]
ALL_GUIDED = [{"prompt": "a"}]


def sampled(prompts, out, folder, *options):
    """The exit code, the manifest's records and the frames of each video."""
    steps = ("--num-inference-steps", "2")
    code = main(["sample", str(prompts), str(out), "--weights", str(folder), *steps, *options])
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    frames = {}
    for path in sorted(out.glob("*.mp4")):
        with av.open(str(path)) as video:
            frames[path.name] = [frame.to_ndarray(format="rgb24") for frame in video.decode()]
    return code, records, frames


@pytest.mark.parametrize("lines", [LINES, ALL_GUIDED], ids=["ulysses", "guidance"])
def test_videos_are_those_of_one_process(lines, tiny_folder, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps(line) for line in lines))
    alone = sampled(prompts, tmp_path / "alone", tiny_folder)
    together = sampled(prompts, tmp_path / "together", tiny_folder, "--parallel", "2")
    assert together[0] == alone[0] == (1 if lines is LINES else 0)
    assert [(each["line"], each["key"], each["error"]) for each in together[1]] == [
        (each["line"], each["key"], each["error"]) for each in alone[1]
    ]
    assert together[2].keys() == alone[2].keys()
    for name, frames in alone[2].items():
        assert len(frames) == 9
        difference = np.abs(np.int16(frames) - np.int16(together[2][name]))
        # Rounding of the last bits may change what the codec writes.
        assert difference.mean() < 0.5
