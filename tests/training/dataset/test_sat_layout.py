"""Videos and labels find each other; what has no partner says what is missing."""

from tests.training.dataset.small_datasets import write_label
from training.dataset.sat_layout import list_sat_layout


def layout(root, videos=(), labels=()):
    """Empty files named as given; a layout is known before any video is opened."""
    for folder in ("videos", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in videos:
        path = root / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in labels:
        write_label(root, name, f"caption of {name}")
    return root


def listed(listing, root):
    return {
        clip.path.relative_to(root / "videos").as_posix(): clip.prompt for clip in listing.clips
    }


def problems(items):
    return {item.path.name: f"{item.found} {item.remedy}" for item in items}


def test_each_video_has_the_label_of_its_name(tmp_path):
    root = layout(
        tmp_path,
        ["10.mp4", "2.MOV", "a.b.webm", "day/1.mkv", ".3.mp4"],
        ["10", "2", "a.b", "day/1"],
    )
    listing = list_sat_layout(root, images=False)
    assert list(listed(listing, root).items()) == [
        ("2.MOV", "caption of 2"),
        ("10.mp4", "caption of 10"),
        ("a.b.webm", "caption of a.b"),
        ("day/1.mkv", "caption of day/1"),
    ]
    assert listing.left_out == listing.notes == ()


def test_the_first_line_is_the_caption(tmp_path):
    root = layout(tmp_path, ["1.mp4", "2.mp4", "3.mp4", "4.mp4"])
    write_label(root, "1", "  a red circle \r\n")
    write_label(root, "2", "first\nsecond\n\nthird")
    write_label(root, "3", b"\xef\xbb\xbfcaf\xc3\xa9")
    write_label(root, "4", "")
    listing = list_sat_layout(root, images=False)
    assert [clip.prompt for clip in listing.clips] == ["a red circle", "first", "café", ""]
    assert problems(listing.notes) == {
        "2.txt": "It has 2 more lines after the first, which alone is the caption. Put all that "
        "belongs to the caption on the first line."
    }


def test_partners_that_are_missing_are_named(tmp_path):
    root = layout(tmp_path, ["1.mp4", "2.mp4", "x/3.mov"], ["1", "x/4"])
    listing = list_sat_layout(root, images=False)
    assert list(listed(listing, root)) == ["1.mp4"]
    assert problems(listing.left_out) == {
        "2.mp4": f"It has no label. Write its caption into {root}/labels/2.txt, or remove it.",
        "3.mov": f"It has no label. Write its caption into {root}/labels/x/3.txt, or remove it.",
        "4.txt": f"No video belongs to it. Put the video at {root}/videos/x/4.mp4 (or another "
        "suffix), or remove the label.",
    }


def test_labels_that_are_no_text_are_refused(tmp_path):
    root = layout(tmp_path, ["1.mp4", "2.mp4"])
    write_label(root, "1", b"\xff\xfe\0caption")
    write_label(root, "2", b"a" * (1 << 21))
    listing = list_sat_layout(root, images=False)
    assert listing.clips == ()
    found = problems(listing.left_out)
    assert "1.txt can't be read ('utf-8' codec" in found["1.mp4"]
    assert "2.txt can't be read (it has more than 1048576 bytes)" in found["2.mp4"]


def test_a_label_is_for_one_clip(tmp_path):
    root = layout(tmp_path, ["1.mov", "1.mp4"], ["1"])
    listing = list_sat_layout(root, images=False)
    assert list(listed(listing, root)) == ["1.mov"]
    assert (
        f"labels/1.txt is also that of {root}/videos/1.mov." in problems(listing.left_out)["1.mp4"]
    )


def test_images_are_clips_where_they_are_asked_for(tmp_path):
    root = layout(tmp_path, ["1.png", "2.JPG", "3.mp4", "3.jpeg"], ["1", "2", "3"])
    asked = list_sat_layout(root, images=True)
    assert list(listed(asked, root)) == ["3.mp4", "1.png", "2.JPG"]
    assert "is also that of" in problems(asked.left_out)["3.jpeg"]
    refused = list_sat_layout(root, images=False)
    assert list(listed(refused, root)) == ["3.mp4"]
    assert "Use --images to train on images too" in problems(refused.left_out)["1.png"]


def test_files_of_other_kinds_count_where_they_have_a_label(tmp_path):
    root = layout(tmp_path, ["1.heic", "notes.md", "2"], ["1", "2"])
    listing = list_sat_layout(root, images=True)
    found = problems(listing.left_out)
    assert set(found) == {"1.heic", "2"}
    assert found["1.heic"].startswith(".heic is neither a video's suffix nor an image's. Save it")
    assert found["2"].startswith("No suffix is neither")


def test_a_folder_named_like_a_video_is_listed_as_one(tmp_path):
    root = layout(tmp_path, [], ["1"])
    (root / "videos" / "1.mp4").mkdir()
    assert list(listed(list_sat_layout(root, images=False), root)) == ["1.mp4"]
