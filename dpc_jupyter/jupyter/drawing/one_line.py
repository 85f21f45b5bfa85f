"""Errors as one red line: the cell fails, and Run All, nbclient and papermill stop, but without a traceback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from IPython.core import error

from dpc_jupyter.errors import DpcError
from dpc_jupyter.sanitize import plain

P = ParamSpec("P")
T = TypeVar("T")


class UsageError(error.UsageError):
    """A magic was called wrongly; the sentence names the fix."""


class Interrupted(KeyboardInterrupt):
    """The user stopped a request."""


def one_line(magic: Callable[P, T]) -> Callable[P, T]:
    """Make a magic's own errors show as their sentence alone; they stay what they are for ``except``."""

    @functools.wraps(magic)
    def called(*args: P.args, **settings: P.kwargs) -> T:
        try:
            return magic(*args, **settings)
        except (DpcError, UsageError, Interrupted) as known:
            raise _drawn(known) from None
        except error.UsageError as usage:  # argparse's, which IPython would write to stderr and no frontend count
            raise _drawn(UsageError(str(usage))) from None
        except KeyboardInterrupt:
            raise _drawn(Interrupted("Stopped.")) from None

    return called


def _drawn(known: Any) -> BaseException:
    """IPython asks an exception itself how to draw it."""
    sentence = plain(str(known))
    known._render_traceback_ = lambda: [f"\x1b[31m{sentence}\x1b[0m"]
    assert isinstance(known, BaseException)
    return known
