"""A dataset of good and bad clips: each is found, said of which file, with what to do."""

import dataclasses
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorTrc
from PIL import Image

from tests.training.dataset.small_datasets import (
    RULES,
    count_words,
    greys,
    write_clip,
    write_label,
    write_metadata,
    write_noise,
    write_picture,
    write_timed,
)
from training.dataset.archive import dataset_folder
from training.dataset.check import check_dataset
from training.dataset.clip import Clip
from weights.errors import UserError

MAX_TOKENS = 8


def check(data, **changes):
    rules = dataclasses.replace(RULES, **changes)
    return check_dataset(data, rules, count_tokens=count_words, max_tokens=MAX_TOKENS)


def add(root, name, caption="a red circle", *, count=9, **video):
    write_label(root, name, caption)
    return write_clip(root / "videos" / f"{name}.mp4", count, **video)


def said(problems):
    return {problem.path.name: f"{problem.found} {problem.remedy}" for problem in problems}


def test_good_clips_are_used_and_nothing_is_said(tmp_path):
    paths = [add(tmp_path, "1"), add(tmp_path, "2", "a blue square", count=40, fps=16)]
    report = check(tmp_path)
    assert report.used == (
        Clip(path=paths[0], prompt="a red circle", image=None, frames=9),
        Clip(path=paths[1], prompt="a blue square", image=None, frames=9),
    )
    assert report.left_out == report.notes == ()


def test_each_bad_clip_is_left_out_with_its_remedy(tmp_path):
    add(tmp_path, "good")
    add(tmp_path, "wordless", "\nsecond line")
    add(tmp_path, "wordy", "a red circle moves from left to right and back")
    add(tmp_path, "short", count=4)
    add(tmp_path, "text").write_text("no video")
    add(tmp_path, "nothing").write_bytes(b"")
    write_label(tmp_path, "cut", "hi")
    cut = write_noise(tmp_path / "videos" / "cut.mp4", 9)
    cut.write_bytes(cut.read_bytes()[:-5000])
    add(tmp_path, "unlabelled")
    (tmp_path / "labels" / "unlabelled.txt").unlink()
    write_label(tmp_path, "lonely", "no video")
    write_label(tmp_path, "still", "an image")
    write_picture(tmp_path / "videos" / "still.png")
    report = check(tmp_path)
    assert [clip.path.name for clip in report.used] == ["good.mp4"]
    found = said(report.left_out)
    assert set(found) == {
        *("wordless.mp4", "wordy.mp4", "short.mp4", "text.mp4", "nothing.mp4", "cut.mp4"),
        *("unlabelled.mp4", "lonely.txt", "still.png"),
    }
    assert found["wordless.mp4"].startswith("Its caption is empty.")
    assert 'tokens and the model takes 8: it would not see "right and back".' in found["wordy.mp4"]
    assert found["short.mp4"] == (
        "It is too short: it fills 4 of 9 frames at 8 per second. "
        "Use a clip of 1.1 s, 0.6 s at least, or train on fewer frames."
    )
    assert found["text.mp4"].startswith("It can't be read (")
    assert found["cut.mp4"].startswith("It ends after 0.62 s and says that it lasts 1.12 s.")


def test_half_of_the_frames_are_enough_and_the_rest_is_noted(tmp_path):
    add(tmp_path, "1", count=5)
    report = check(tmp_path)
    assert [clip.frames for clip in report.used] == [9]
    assert said(report.notes)["1.mp4"].startswith(
        "It fills 5 of 9 frames; its last one is repeated for 4. Use a clip of 1.1 s"
    )


def test_small_cropped_and_mixed_clips_are_noted(tmp_path):
    add(tmp_path, "1")
    add(tmp_path, "2", size=(48, 64))
    add(tmp_path, "3", size=(64, 160))
    add(tmp_path, "4")
    report = check(tmp_path)
    assert len(report.used) == 4
    assert [(item.path.name, item.found) for item in report.notes] == [
        ("2.mp4", "It has 48×64 pixels and is scaled up to 64×64."),
        ("3.mp4", "Of its 64×160 pixels 40% are left after cropping to 64×64."),
        (tmp_path.name, "Its clips have 3 sizes: 64×64 (2), 48×64 (1), 64×160 (1)."),
    ]
    assert all(item.remedy.endswith(".") for item in report.notes)


def test_many_sizes_are_cut_short(tmp_path):
    for number in range(6):
        add(tmp_path, str(number), size=(64, 64 + 2 * number))
    (note,) = check(tmp_path).notes
    assert note.found.startswith("Its clips have 6 sizes: 64×64 (1), ")
    assert note.found.endswith(" and 2 more.")


@pytest.mark.parametrize(("transfer", "noted"), [(ColorTrc.ARIB_STD_B67, 1), (ColorTrc.BT709, 0)])
def test_hdr_is_noted(transfer, noted, tmp_path):
    def tag(stream):
        stream.codec_context.color_trc = transfer

    write_label(tmp_path, "1", "hi")
    (tmp_path / "videos").mkdir()
    ticks = [125 * number for number in range(9)]
    write_timed(tmp_path / "videos" / "1.mov", greys(9), ticks, stream_settings=tag)
    notes = check(tmp_path).notes
    assert len(notes) == noted
    assert all("HDR" in note.found for note in notes)


def test_a_phones_upright_video_is_seen_upright(tmp_path):
    write_label(tmp_path, "1", "hi")
    (tmp_path / "videos").mkdir()
    write_timed(
        tmp_path / "videos" / "1.mov",
        greys(9, (160, 64)),
        [125 * number for number in range(9)],
        stream_settings=lambda stream: stream.set_display_rotation(-90),
    )
    (note,) = check(tmp_path).notes
    assert note.found.startswith("Of its 64×160 pixels 40%")


def test_frames_that_no_converter_takes_leave_the_clip_out(tmp_path, monkeypatch):
    add(tmp_path, "1")

    def refuse(_):
        raise av.error.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr("training.dataset.clip_probe.upright_image", refuse)
    assert "Invalid argument" in said(check(tmp_path).left_out)["1.mp4"]


def test_images_are_clips_of_one_frame_where_they_are_asked_for(tmp_path):
    write_label(tmp_path, "1", "an image")
    path = write_picture(tmp_path / "videos" / "1.png")
    write_label(tmp_path, "2", "a small image")
    write_picture(tmp_path / "videos" / "2.jpg", (40, 40))
    write_label(tmp_path, "3", "no image")
    (tmp_path / "videos" / "3.webp").write_text("no image")
    report = check(tmp_path, images=True)
    assert report.used[0] == Clip(path=path, prompt="an image", image=None, frames=1)
    assert len(report.used) == 2
    assert said(report.left_out)["3.webp"].startswith("It is not a picture of a known format. It")
    assert "scaled up" in said(report.notes)["2.jpg"]
    assert said(report.notes)[tmp_path.name].startswith("Its clips have 2 sizes: ")


@pytest.mark.parametrize("damage", ["missing", "text", "tiny", "folder", "large"])
def test_an_input_image_that_cannot_be_read_leaves_the_clip_out(damage, tmp_path, monkeypatch):
    write_clip(tmp_path / "1.mp4")
    write_metadata(tmp_path, {"file_name": "1.mp4", "text": "hi", "image": "1.png"})
    path = tmp_path / "1.png"
    if damage == "text":
        path.write_text("no image")
    elif damage == "tiny":
        write_picture(path, (8, 8))
    elif damage == "folder":
        path.mkdir()
    elif damage == "large":
        write_picture(path)
        monkeypatch.setattr("training.dataset.picture_file.MAX_BYTES", 10)
    report = check(tmp_path, first_frames=True)
    assert report.used == ()
    assert [item.path for item in report.left_out] == [path]
    # Text-to-video takes no notice of it.
    assert len(check(tmp_path).used) == 1


def test_a_bomb_of_an_image_is_refused_without_a_warning(tmp_path):
    write_clip(tmp_path / "1.mp4")
    Image.fromarray(np.zeros((10_000, 10_000), np.uint8) > 0).save(tmp_path / "1.png")
    write_metadata(tmp_path, {"file_name": "1.mp4", "text": "hi", "image": "1.png"})
    (problem,) = check(tmp_path, first_frames=True).left_out
    assert problem.found.startswith("It has more than 65 million pixels.")


def test_an_input_image_that_can_be_read_is_used(tmp_path):
    write_clip(tmp_path / "1.mp4")
    path = write_picture(tmp_path / "1.png")
    write_metadata(tmp_path, {"file_name": "1.mp4", "text": "hi", "image": "1.png"})
    assert [clip.image for clip in check(tmp_path, first_frames=True).used] == [path]


def test_a_clip_that_is_longer_than_needed_is_read_no_further(tmp_path):
    write_label(tmp_path, "1", "hi")
    path = write_noise(tmp_path / "videos" / "1.mp4", 40)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    report = check(tmp_path)
    assert len(report.used) == 1
    assert report.left_out == ()


def test_a_zip_with_one_folder_at_its_top_is_a_dataset(tmp_path):
    add(tmp_path / "my clips", "1")
    path = shutil.make_archive(str(tmp_path / "data"), "zip", tmp_path, "my clips")
    folder = dataset_folder(Path(path), tmp_path / "workspace")
    (clip,) = check(folder).used
    assert clip.path == folder / "my clips" / "videos" / "1.mp4"


def test_a_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        check(tmp_path)
