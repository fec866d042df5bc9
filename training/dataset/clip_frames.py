"""The pixels of a clip as training sees them.

A video is resampled to the rules' rate by its frames' time stamps, cut after the rules' frames, and
filled up with its last frame. SAT's `skip_frms_num`, which drops frames at both ends, is not
applied: it cuts clips that were cut well already, and what doesn't belong into a clip should be cut
in the data, where it can be seen. SAT takes frames by the mean rate of the file, and those of clips
that are shorter than its rules at whatever rate they have; here all are resampled.
"""

from collections.abc import Container, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.dataset.centre_crop import centre_crop, cropped
from training.dataset.clip import Clip, UnusableClipError, is_image
from training.dataset.clip_rules import ClipRules
from training.dataset.frame_times import resampled
from training.dataset.picture_file import read_picture
from training.dataset.upright import shown_shape, upright_image
from training.dataset.video_frames import opened_video, timed_frames
from weights.errors import UserError


def read_clip(clip: Clip, rules: ClipRules) -> np.ndarray:
    """The clip's frames: (clip.frames, rules.height, rules.width, 3) uint8 RGB.

    Raises:
        UserError: a file is not as it was when the dataset was checked.
    """
    return read_frames(clip, rules, range(clip.frames))


def read_image(clip: Clip, rules: ClipRules) -> np.ndarray:
    """Image-to-video's input image: (rules.height, rules.width, 3) uint8 RGB.

    It is the clip's own image, cropped as its frames are, else its first frame.

    Raises:
        UserError: a file is not as it was when the dataset was checked.
    """
    if clip.image is None:
        frames = read_frames(clip, rules, [0])
        return frames.reshape(frames.shape[1:])
    try:
        return np.array(_cropped_picture(clip.image, rules))
    except UnusableClipError as error:
        raise _changed(clip.image, error) from None


def read_frames(clip: Clip, rules: ClipRules, indices: Container[int]) -> np.ndarray:
    """Some of the frames of `read_clip`, (frames, height, width, 3), in the order of the clip.

    Raises:
        UserError: a file is not as it was when the dataset was checked.
    """
    wanted = [index for index in range(clip.frames) if index in indices]
    result = np.empty((len(wanted), rules.height, rules.width, 3), np.uint8)
    try:
        for place, picture in enumerate(_pictures(clip, rules, wanted)):
            result[place] = np.asarray(picture)
    except UnusableClipError as error:
        raise _changed(clip.path, error) from None
    return result


def _pictures(clip: Clip, rules: ClipRules, wanted: list[int]) -> Iterator[Image.Image]:
    if is_image(clip.path):
        picture = _cropped_picture(clip.path, rules)
        yield from (picture for _ in wanted)
        return
    with opened_video(clip.path) as (container, stream):
        source = timed_frames(container, stream, clip.path)
        # Nothing is decoded after the last frame that is wanted.
        count = wanted[-1] + 1
        filled = _filled_up(resampled(source, rules.fps, count), count)
        shown = None
        for index, frame in enumerate(filled):
            if index in wanted:
                if frame is not shown:
                    shown = frame
                    picture = _cropped_frame(frame, stream.sample_aspect_ratio, rules)
                yield picture


def _filled_up(frames: Iterator[Any], count: int) -> Iterator[Any]:
    """`frames`, at least one of them, and the last again and again until there are `count`."""
    last = None
    for _ in range(count):
        last = next(frames, last)
        yield last


def _cropped_frame(frame: Any, pixel_aspect: Fraction | None, rules: ClipRules) -> Image.Image:
    crop = centre_crop(shown_shape(frame, pixel_aspect), (rules.width, rules.height))
    return cropped(upright_image(frame), crop)


def _cropped_picture(path: Path, rules: ClipRules) -> Image.Image:
    size = (rules.width, rules.height)
    picture = read_picture(path, size)
    return cropped(picture, centre_crop(picture.size, size))


def _changed(path: Path, error: UnusableClipError) -> UserError:
    return UserError(
        f"{path} can't be used: {error.found}",
        "It could when the dataset was checked.",
        error.remedy,
    )
