"""What the operator of a server is to read, and its users are not."""

import sys


def tell_operator(line: str) -> None:
    """Write a line to the container's log, and not to the prediction's, which users are sent.

    Cog puts all that goes to `sys.stdout` and `sys.stderr` during a prediction into its log. What
    goes to the process's own stderr, it puts into the container's.
    """
    print(line, file=sys.__stderr__, flush=True)
