"""Resampling shows at every time what a player shows then, and reads no more than it must."""

from fractions import Fraction
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.dataset.frame_times import TimedFrame, first_shown, resampled

# The most that a container's rounding puts a frame off.
ROUNDING = Fraction(1, 200)

quick = settings(deadline=None, max_examples=50)
gaps = st.fractions(0, 2, max_denominator=1000)
starts = st.lists(gaps, max_size=20).map(lambda steps: list(accumulate(steps, initial=Fraction(0))))
rates = st.sampled_from([1, 8, 16, 30])


def source(starts, last=Fraction(0)):
    durations = [after - before for before, after in pairwise(starts)] + [last]
    return [
        TimedFrame(start, duration, number)
        for number, (start, duration) in enumerate(zip(starts, durations, strict=True))
    ]


@quick
@given(starts, gaps, rates, st.integers(1, 40))
def test_at_each_time_the_last_frame_that_has_begun_is_shown(starts, last, fps, frames):
    shown = list(resampled(source(starts, last), fps, frames))
    end = starts[-1] + last
    times = [Fraction(number, fps) for number in range(frames)]
    inside = [time for time in times if time + ROUNDING < end] or [Fraction(0)]
    assert shown == [
        max(number for number, start in enumerate(starts) if start <= time + ROUNDING)
        for time in inside
    ]


@quick
@given(st.integers(1, 40), rates, st.integers(1, 60))
def test_a_video_of_the_wanted_rate_keeps_all_its_frames(count, fps, frames):
    starts = [Fraction(number, fps) for number in range(count)]
    shown = list(resampled(source(starts, Fraction(1, fps)), fps, frames))
    assert shown == list(range(min(count, frames)))


@quick
@given(st.integers(1, 60), st.integers(2, 5), rates)
def test_of_a_rate_n_times_as_high_every_nth_frame_is_shown(count, times, fps):
    starts = [Fraction(number, fps * times) for number in range(count)]
    shown = list(resampled(source(starts, Fraction(1, fps * times)), fps, 100))
    assert shown == list(range(0, count, times))


@quick
@given(st.integers(1, 60), st.integers(2, 5), st.sampled_from([8, 16]))
def test_frames_of_a_lower_rate_come_again(count, times, fps):
    starts = [Fraction(times * number, fps) for number in range(count)]
    shown = list(resampled(source(starts, Fraction(times, fps)), fps, 1000))
    assert shown == [number for number in range(count) for _ in range(times)]


@pytest.mark.parametrize(("fps", "tick"), [(8, 1000), (16, 1000), (24, 1000), (16, 100), (30, 100)])
@quick
@given(data=st.data())
def test_rounded_time_stamps_change_nothing(fps, tick, data):
    rounding = data.draw(st.sampled_from([round, int] if tick == 1000 else [round]))
    starts = [Fraction(rounding(Fraction(number * tick, fps)), tick) for number in range(50)]
    assert list(resampled(source(starts, Fraction(1, fps)), fps, 50)) == list(range(50))


@quick
@given(starts, rates, st.integers(1, 20))
def test_nothing_is_read_after_the_frame_that_shows_that_all_are_there(starts, fps, frames):
    read = []

    def reading():
        for frame in source(starts, Fraction(1)):
            read.append(frame.start)
            yield frame

    shown = list(resampled(reading(), fps, frames))
    beyond = [start for start in read if first_shown(start, fps) >= frames]
    assert len(beyond) <= 1
    assert len(shown) == frames or len(read) == len(starts)


def test_a_source_without_frames_shows_none():
    assert list(resampled([], 8, 9)) == []


def test_a_clip_of_six_seconds_lacks_the_frame_at_its_end():
    starts = [Fraction(number, 30) for number in range(180)]
    assert len(list(resampled(source(starts, Fraction(1, 30)), 8, 49))) == 48


def test_a_gap_shows_the_frame_before_it_for_as_long():
    starts = [Fraction(0), Fraction(1, 8), Fraction(1), Fraction(9, 8)]
    shown = list(resampled(source(starts, Fraction(1, 8)), 8, 20))
    assert shown == [0, *[1] * 7, 2, 3]
