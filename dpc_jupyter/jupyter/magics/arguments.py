"""What a user typed behind a magic: words, options, and where notebook variables go into a prompt."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics

from dpc_jupyter.jupyter.drawing.one_line import UsageError

# "hots" is as like "host" as 0.75, "bogus" as 0.44; difflib's own 0.6 lets in what shares half of its letters.
_LIKE = 0.7
_WORD = re.compile(r"""\s*((?:[^\s"'\\]|\\.|"(?:\\.|[^"\\])*"|'[^']*')+)(?=\s|\Z)""")
# LaTeX is taken as one piece first, so that the braces in it are nobody's variables.
_LATEX_OR_NAME = re.compile(
    r"""(?P<latex> \\[A-Za-z]+ (?:\[[^\]\n]*\] | \{[^{}]*\})+     # \frac{a}{b}
      | \$\$.+?\$\$
      | \$[^$\n]*[\\^_][^$\n]*\$ )                                # $x_{i}$, but not $5 for {name}$
      | (?<!\{) \{ (?P<name>[^\W\d]\w*) \} (?!\})""",
    re.VERBOSE | re.DOTALL,
)


def parse(magics: Magics, name: str, line: str) -> argparse.Namespace:
    """Read a line that holds nothing but options and names.

    Raises
    ------
    UsageError
    """
    try:
        words = shlex.split(line, comments=True)  # a cell's line may end in a comment
    except ValueError:
        raise UsageError("A quote is not closed: put the words between two equal quotes.") from None
    return _checked(magics, name, words)


def parse_leading(magics: Magics, name: str, line: str, fill: Callable[[str], str]) -> tuple[argparse.Namespace, str]:
    """Read the options that a line begins with; the rest is text, taken as typed, apostrophes and all.

    Parameters
    ----------
    name : str
        A magic of `magics`, made with ``magic_arguments``; every option takes one value or none.
    line : str
        What follows the magic's name. ``--`` ends the options.
    fill : callable
        Applied to every option's value.

    Raises
    ------
    UsageError
    """
    parser: argparse.ArgumentParser = getattr(magics, name).parser
    options = parser._option_string_actions
    words: list[str] = []
    at = 0
    while (found := _WORD.match(line, at)) and len(found[1]) > 1 and found[1].startswith("-"):
        at = found.end()
        if found[1] == "--":
            break
        flag, equals, value = shlex.split(found[1])[0].partition("=")
        action = options.get(flag)
        if action is None and not flag.startswith("--") and (action := options.get(flag[:2])) is not None:
            flag, equals, value = flag[:2], "=", flag[2:] + equals + value  # -t0.2
        if action is None:
            raise UsageError(f"{_unknown(flag, list(options))} A prompt that begins with a dash goes behind --")
        if action.nargs != 0 and not equals:
            following = _WORD.match(line, at)
            if following is None:
                raise UsageError(f"{flag} needs a value: {flag} {action.metavar or action.dest.upper()}")
            at, value = following.end(), shlex.split(following[1])[0]
        words.append(flag if action.nargs == 0 else f"{action.option_strings[-1]}={fill(value)}")
    return _checked(magics, name, words), line[at:].strip()


def fill_in(text: str, variables: Mapping[str, Any], shell: InteractiveShell) -> str:
    """Put notebook variables into a prompt: ``{name}`` becomes ``str(name)``.

    An unknown name, any other braces (``{}``, ``{{x}}``, JSON) and LaTeX (a command's braces, a formula between
    dollars) stay as typed. What a variable holds is not looked into again.
    """

    def value(found: re.Match[str]) -> str:
        name = found["name"]
        if name is None or name not in variables or _is_ipythons(name, variables, shell):
            return found[0]
        return str(variables[name])

    return _LATEX_OR_NAME.sub(value, text)


def _is_ipythons(name: str, variables: Mapping[str, Any], shell: InteractiveShell) -> bool:
    """``{exit}`` and ``{In}`` are words, although IPython puts such names into every notebook."""
    hidden = shell.user_ns_hidden
    return name in hidden and hidden[name] is variables[name]


def _checked(magics: Magics, name: str, words: list[str]) -> argparse.Namespace:
    parser: argparse.ArgumentParser = getattr(magics, name).parser
    parser.allow_abbrev = False
    parsed, unknown = parser.parse_known_args(words)
    if unknown:
        if unknown[0].startswith("-"):
            raise UsageError(_unknown(unknown[0].partition("=")[0], list(parser._option_string_actions)))
        raise UsageError(f"{unknown[0]!r} is one word too many: put words with spaces in quotes. See %{parser.prog}?")
    return parsed


def _unknown(flag: str, known: list[str]) -> str:
    bare = {each.lstrip("-"): each for each in known}  # dashes alone make no two options alike
    word = flag.lstrip("-")
    near = [bare[each] for each in bare if each.startswith(word)] if len(word) > 1 else []
    near = near or [bare[each] for each in difflib.get_close_matches(word, bare, 1, _LIKE)]
    meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known, key=str.lower))}."
    return f"{flag} is no option: {meant}"
