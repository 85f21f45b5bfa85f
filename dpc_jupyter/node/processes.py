"""Whether a process of this machine lives: what one has left in the home, another may have to judge."""

from __future__ import annotations

import os
import sys


def runs(pid: int) -> bool:
    """Whether there is such a process; True where that cannot be known."""
    if sys.platform == "win32" or pid <= 0:  # no signal there asks without killing
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
