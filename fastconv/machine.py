from functools import cache
import os
@cache
def usable_cores() -> int:
    return len(os.sched_getaffinity(0))
