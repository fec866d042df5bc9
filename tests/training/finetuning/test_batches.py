"""Every clip once an epoch, in an order that does not depend on how many processes there are."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from training.finetuning.batches import Share, global_batch_of, shares, steps_per_epoch

FRAMES = st.lists(st.sampled_from([1, 9]), min_size=1, max_size=20)


@given(frames=FRAMES, size=st.integers(1, 8), seed=st.integers(0, 9))
def test_an_epoch_shows_every_clip_and_repeats_only_to_fill(frames, size, seed):
    steps = steps_per_epoch(frames, size)
    seen = Counter(n for step in range(steps) for n in global_batch_of(step, frames, size, seed))
    assert set(seen) == set(range(len(frames)))
    assert sum(seen.values()) == steps * size
    for count in set(frames):
        group = [seen[n] for n, each in enumerate(frames) if each == count]
        assert max(group) - min(group) <= 1


@given(frames=FRAMES, size=st.integers(1, 8), step=st.integers(0, 100))
def test_clips_of_a_step_have_one_length(frames, size, step):
    batch = global_batch_of(step, frames, size, 0)
    assert len(batch) == size
    assert len({frames[n] for n in batch}) == 1


def test_epochs_differ_and_repeat_with_the_seed():
    frames = [9] * 12
    epochs = [[global_batch_of(s, frames, 4, 1) for s in range(3 * e, 3 * e + 3)] for e in (0, 1)]
    assert epochs[0] != epochs[1]
    assert epochs[0] == [global_batch_of(s, frames, 4, 1) for s in range(3)]
    assert epochs[0] != [global_batch_of(s, frames, 4, 2) for s in range(3)]


@given(batch=st.integers(1, 3), processes=st.integers(1, 4), accumulate=st.integers(1, 3))
def test_processes_share_a_global_batch_without_overlap(batch, processes, accumulate):
    clips = tuple(range(100, 100 + batch * processes * accumulate))
    seen = {}
    for process in range(processes):
        own = shares(clips, batch=batch, processes=processes, process=process)
        assert [len(share.clips) for share in own] == [batch] * accumulate
        seen |= {share.first + n: clip for share in own for n, clip in enumerate(share.clips)}
    assert seen == dict(enumerate(clips))


def test_one_process_takes_in_turn_what_two_take_at_once():
    assert shares((5, 6), batch=1, processes=1, process=0) == [Share(0, (5,)), Share(1, (6,))]
    assert shares((5, 6), batch=1, processes=2, process=1) == [Share(1, (6,))]
