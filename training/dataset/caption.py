"""Whether a caption can be trained on as it is."""

from bisect import bisect_right
from collections.abc import Callable

from training.dataset.clip import UnusableClipError

_SHOWN = 80


def check_caption(prompt: str, count_tokens: Callable[[str], int], max_tokens: int) -> None:
    """Refuse a caption that is empty, or of whose end the model would see nothing.

    `count_tokens` says how many tokens a text has, its end mark included.

    Raises:
        UnusableClipError: it is one of these.
    """
    if not prompt:
        raise UnusableClipError(
            "Its caption is empty.", "Write what is to be seen, or leave the clip out."
        )
    count = count_tokens(prompt)
    if count > max_tokens:
        raise UnusableClipError(
            f"Its caption has {count} tokens and the model takes {max_tokens}: it would not see "
            f"{_quoted(lost_end(prompt, count_tokens, max_tokens))}.",
            "Shorten the caption.",
        )


def lost_end(prompt: str, count_tokens: Callable[[str], int], max_tokens: int) -> str:
    """The end of `prompt` after as much as fits into `max_tokens`."""
    lengths = range(len(prompt) + 1)
    fitting = bisect_right(lengths, max_tokens, key=lambda end: count_tokens(prompt[:end]))
    return prompt[max(fitting - 1, 0) :].strip()


def _quoted(text: str) -> str:
    text = " ".join(text.split())
    return f'"{text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"}"'
