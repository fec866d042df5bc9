"""Which layout a folder has is seen at once; a folder without one says what is missing."""

import dataclasses

import pytest

from tests.training.dataset.small_datasets import RULES, write_label, write_metadata
from training.dataset.layouts import list_clips
from weights.errors import UserError


def sat(root):
    write_label(root, "1", "one")
    (root / "videos").mkdir()
    (root / "videos" / "1.mp4").touch()
    return root / "videos" / "1.mp4"


def hugging_face(root):
    write_metadata(root, {"file_name": "1.mp4", "text": "one", "image": "1.png"})
    (root / "1.mp4").touch()
    return root / "1.mp4"


@pytest.mark.parametrize("layout", [sat, hugging_face])
@pytest.mark.parametrize("place", [".", "my clips"])
def test_both_layouts_are_found_here_or_one_folder_below(layout, place, tmp_path):
    path = layout(tmp_path / place)
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "__MACOSX").mkdir()
    (clip,) = list_clips(tmp_path, RULES).clips
    assert (clip.path, clip.prompt, clip.image) == (path, "one", None)


def test_images_of_lines_are_for_image_to_video(tmp_path):
    hugging_face(tmp_path)
    (clip,) = list_clips(tmp_path, dataclasses.replace(RULES, first_frames=True)).clips
    assert clip.image == tmp_path / "1.png"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"data is empty\. .* Put the videos into videos and a text file for each into labels"),
        ([".DS_Store"], "data is empty"),
        (["inner/.DS_Store"], "inner is empty"),
        (
            ["1.mp4", "1.txt"],
            r"no metadata\.jsonl, and no videos/ and no labels/\..*Move the videos into videos",
        ),
        (["videos/1.mp4"], r"no metadata\.jsonl, and no labels/\."),
        (["labels/1.txt"], r"no metadata\.jsonl, and no videos/\."),
        (["a/videos/1.mp4", "a/labels/1.txt", "b/1.mp4"], r"Check the path, or bring the files"),
        (
            ["metadata.jsonl", "labels/1.txt"],
            r"has metadata\.jsonl and labels\..*Move the other one",
        ),
    ],
)
def test_folders_without_a_dataset_say_what_is_missing(names, message, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in names:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).touch()
    with pytest.raises(UserError, match=message):
        list_clips(data, RULES)


def test_paths_that_are_no_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        list_clips(tmp_path / "nowhere", RULES)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        list_clips(tmp_path / "file", RULES)
