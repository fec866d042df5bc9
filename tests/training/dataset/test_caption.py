"""Captions that are empty or too long are refused, and what the model would not see is quoted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.dataset.small_datasets import count_words
from training.dataset.caption import check_caption, lost_end
from training.dataset.clip import UnusableClipError


def test_a_caption_that_fits_exactly_passes():
    check_caption("one two three", count_words, 4)


def test_an_empty_one_is_refused():
    with pytest.raises(UnusableClipError, match=r"caption is empty\. Write what is to be seen"):
        check_caption("", count_words, 4)


def test_what_would_be_lost_is_quoted():
    with pytest.raises(UnusableClipError) as caught:
        check_caption("a red circle moves to the right", count_words, 5)
    assert caught.value.found == (
        'Its caption has 8 tokens and the model takes 5: it would not see "to the right".'
    )
    assert caught.value.remedy == "Shorten the caption."


def test_a_long_quotation_is_cut():
    with pytest.raises(UnusableClipError) as caught:
        check_caption("start " + "word\n" * 500, count_words, 2)
    assert '"word word' in caught.value.found
    assert '…"' in caught.value.found
    assert len(caught.value.found) < 200


@settings(deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=30), st.integers(2, 40))
def test_what_is_left_fits_and_not_a_word_less(words, limit):
    prompt = " ".join(words)
    lost = lost_end(prompt, count_words, limit).split()
    assert words[len(words) - len(lost) :] == lost
    assert len(words) - len(lost) == min(len(words), limit - 1)


def test_text_without_spaces_is_cut_between_characters():
    assert lost_end("一二三四五", len, 3) == "四五"
