"""Where losses go besides log.jsonl: the experiment trackers that accelerate knows."""

from weights.errors import UserError

NO_TRACKER = "none"


def check_tracker(name: str) -> None:
    """Check that accelerate can log to the tracker `name`.

    Raises:
        UserError: it does not know one of that name, or its package is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = sorted(map(str, get_available_trackers()))
    if name in (NO_TRACKER, *installed):
        return
    known = name in LOGGER_TYPE_TO_CLASS
    raise UserError(
        f"--tracker is {name!r}{', which is not installed' if known else ''}.",
        f"Installed are {', '.join((*installed, NO_TRACKER))}.",
        f"Install the package {name}, or use one of these." if known else "Use one of these.",
    )
