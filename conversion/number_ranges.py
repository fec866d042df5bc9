"""Closed ranges of numbers that settings and SAT's files have in common."""

import math
import sys

Range = tuple[float, float]

COUNT: Range = (1, math.inf)
NOT_NEGATIVE: Range = (0, math.inf)
POSITIVE: Range = (sys.float_info.min, math.inf)
SHARE: Range = (0, 1)
