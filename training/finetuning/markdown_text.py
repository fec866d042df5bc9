"""Anyone's text as part of a Markdown file: it shows as it was written and changes nothing else."""

import re
import string
import unicodedata

# Line and paragraph breaks of all kinds, controls and halves of a surrogate pair.
_BREAKS = {"Cc", "Cs", "Zl", "Zp"}
# Invisible characters that turn round the order in which what follows them is shown.
_BIDIRECTIONAL = re.compile("[\u202a-\u202e\u2066-\u2069]")
# These mean nothing in Markdown, and a prompt is easier to read in the file without backslashes.
_PLAIN = set(",;?%/'\"")
_MARKUP = re.compile(f"[{re.escape(''.join(sorted(set(string.punctuation) - _PLAIN)))}]")


def one_line(text: str) -> str:
    """The text on one line, without invisible controls, its spaces one at a time."""
    shown = (" " if unicodedata.category(c) in _BREAKS else c for c in text)
    return " ".join(_BIDIRECTIONAL.sub("", "".join(shown)).split())


def as_markdown(text: str) -> str:
    """The text on one line, for a paragraph, a list, a heading or a cell of a table.

    A backslash before ASCII punctuation gives that character and nothing more (CommonMark, section
    2.4), also of a bar in one of GitHub's tables.
    """
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def code_block(language: str, code: str) -> str:
    """A fenced block; no line of the code can end it."""
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
