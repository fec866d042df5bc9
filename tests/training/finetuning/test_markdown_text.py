"""Anyone's text stays on its line and in its place, and shows as it was written."""

import re
import string
import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from training.finetuning.markdown_text import as_markdown, code_block, one_line

# Everything that ends a line for Python, YAML, browsers or a terminal, and more of its kind.
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\x00\x1b\x7f"
TEXTS = st.text(st.characters() | st.sampled_from(BREAKS + string.punctuation + "\u202e \t"))
# What CommonMark and GitHub give a meaning to within a line or at its start.
MARKUP = set("\\`*_{}[]()<>#+-.!|~&:@=^$")


@given(TEXTS)
@example("\u202egnp.exe")
@example("\ud800")
def test_one_line_is_one_and_can_be_written(text):
    line = one_line(text)
    assert len(line.splitlines()) == (1 if line else 0)
    assert line == line.strip()
    assert "  " not in line
    assert not {unicodedata.category(c) for c in line} & {"Cc", "Cs", "Zl", "Zp"}
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", line)
    line.encode("utf-8")
    assert one_line(line) == line


def test_one_line_keeps_what_people_write():
    assert one_line("  a «cat»,\n\tünïcode 日本 👩‍🚀 ") == "a «cat», ünïcode 日本 👩‍🚀"


@given(TEXTS)
def test_markdown_shows_the_text_and_nothing_in_it_acts(text):
    written = as_markdown(text)
    # A backslash and the character after it are that character; what is left means nothing.
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", written) == one_line(text)
    assert not MARKUP & set(re.sub(r"\\.", "", written))


def test_plain_sentences_stay_readable_in_the_file():
    assert as_markdown('A cat, "sleeping"; isn\'t it?') == 'A cat, "sleeping"; isn\'t it?'


@given(st.text("`~ab\n ", max_size=40))
def test_no_line_of_code_ends_its_block(code):
    first, *lines, last = code_block("sh", code).split("\n")
    assert "\n".join(lines) == code
    assert first == f"{last}sh"
    assert re.fullmatch("`{3,}", last)
    # A closing fence is a line of at least as many backticks (CommonMark, section 4.5).
    assert not any(re.fullmatch(f" {{0,3}}{last}`*[ \t]*", line) for line in lines)
