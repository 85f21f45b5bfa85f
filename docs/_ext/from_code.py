"""The reference's parts that come from the code: a comment ``<!-- code: NAME ARGUMENT -->`` on a page becomes its text.

Every magic, command, error and message is found where it is registered, so none can be missing from its page.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as shapes
from sphinx.application import Sphinx

import dpc_jupyter

_PACKAGE = Path(dpc_jupyter.__file__).parent
# Where the classes are that the pages name.
_ROOMS = ("node", "firewall", "protocol", "hub/client")
_PLACE = re.compile(r"^<!-- code: (\w+)(?: (\w+))? -->$", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, bool]:
    """Fill the places of each page as it is read."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _fill(_app: Sphinx, _page: str, source: list[str]) -> None:
    source[0] = _PLACE.sub(lambda place: _PARTS[place[1]](*filter(None, [place[2]])), source[0])


# Magics.


def _magics() -> str:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from dpc_jupyter import load_ipython_extension, unload_ipython_extension

    with tempfile.TemporaryDirectory() as folder:
        os.environ["IPYTHONDIR"] = os.environ["DPC_HOME"] = folder
        shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
        kinds = shell.magics_manager.magics
        before = {kind: set(kinds[kind]) for kind in kinds}
        load_ipython_extension(shell)
        lines, cells = ({name: kinds[k][name] for name in kinds[k].keys() - before[k]} for k in ("line", "cell"))
        unload_ipython_extension(shell)
    return "\n".join(
        _magic([f"`%{name}`"] * (name in lines) + [f"`%%{name}`"] * (name in cells), function)
        for name, function in sorted((lines | cells).items())
    )


def _magic(forms: list[str], function: Any) -> str:
    parser: argparse.ArgumentParser | None = getattr(function, "parser", None)
    heading = f"## {', '.join(forms)}"
    if parser is None:
        return f"{heading}\n\n{_rst(function.__doc__ or '')}\n"
    usage = inspect.cleandoc(parser.format_usage().lstrip().removeprefix("::"))
    # argparse has no public list of what a parser takes.
    arguments = [action for action in parser._actions if action.dest != "help"]
    table = _table(("Argument", "Meaning"), map(_argument, arguments))
    return f"{heading}\n\n```text\n{usage}\n```\n\n{_rst(parser.description or '')}\n\n{table}\n"


def _argument(action: argparse.Action) -> tuple[str, str]:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    words = ", ".join(action.option_strings) if action.option_strings else action.metavar or action.dest
    shown = f"`{words}`" if action.nargs == 0 or not action.option_strings else f"`{words} {value}`"
    choices = f"one of {', '.join(f'`{each}`' for each in action.choices)}" if action.choices else ""
    help_text = (action.help or "").replace("%%", "%")
    return shown, "; ".join(filter(None, (choices, help_text)))


# The command line.


def _commands() -> str:
    # Typer's own generator, by its public command.
    made = subprocess.run(
        [sys.executable, "-m", "typer", "dpc_jupyter.cli", "utils", "docs", "--name", "dpc-jupyter"],
        check=True,
        capture_output=True,
        text=True,
    )
    # Without the title, which the page has, and the lists of commands, which cut each sentence short.
    return re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", made.stdout.split("\n", 1)[1])


# Classes.


def class_named(name: str) -> type:
    """The one class of the package that is called so, whichever module defines it: modules move, names stay.

    Raises
    ------
    LookupError
        There is none, or more than one.
    """
    defines = re.compile(rf"^class {name}\b", re.MULTILINE)
    paths = [path for room in _ROOMS for path in (_PACKAGE / room).rglob("*.py") if defines.search(path.read_text())]
    if len(paths) != 1:
        raise LookupError(f"{len(paths)} classes are called {name}: {sorted(map(str, paths))}")
    module = ".".join(paths[0].relative_to(_PACKAGE.parent).with_suffix("").parts)
    found: type = getattr(importlib.import_module(module), name)
    return found


def _class(name: str) -> str:
    kind = class_named(name)
    return _directive(f".. autoclass:: {kind.__module__}.{kind.__qualname__}\n   :members:")


def _directive(text: str) -> str:
    return f"```{{eval-rst}}\n{text}\n```"


# Errors, messages, providers.


def _errors() -> str:
    from dpc_jupyter.errors import DpcError

    rows = (
        (f"`{kind.__name__}`", f"`{kind.__base__.__name__}`", f"`{kind.code}`", _summary(kind))
        for kind in _tree(DpcError)
    )
    return _table(("Exception", "Child of", "Code", "Meaning"), rows)


def _tree(kind: Any) -> Iterator[Any]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def _messages(which: str) -> str:
    from dpc_jupyter.protocol.messages import COMMANDS, EXTENSIONS

    wanted = {word: kind for word, kind in COMMANDS.items() if (kind in EXTENSIONS) == (which == "extensions")}
    return "\n".join(f"### `{word}`\n\n{_struct(kind)}\n" for word, kind in wanted.items())


def _struct(name: str | type) -> str:
    kind: Any = class_named(name) if isinstance(name, str) else name
    about, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\n\nAttributes\n----------\n")
    fields = shapes.type_info(kind).fields  # type: ignore[union-attr]
    if not fields:
        return f"{_rst(about)}\n\nIt has no fields.\n"
    means = _meanings(attributes) if attributes else {}
    columns = 4 if means else 3
    rows = ((f"`{f.encode_name}`", _words(f.type), _default(f), means.get(f.name, ""))[:columns] for f in fields)
    return f"{_rst(about)}\n\n{_table(('Field', 'Type', 'Default', 'Meaning')[:columns], rows)}"


def _meanings(attributes: str) -> dict[str, str]:
    """Each attribute's text in a section of a NumPy docstring; one that has none is told by its type."""
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", attributes):
        head, _, text = entry.partition("\n")
        names, _, kind = head.partition(" : ")
        means = re.sub("`+", "`", " ".join(text.split()) or kind)
        found.update(dict.fromkeys(names.split(", "), means))
    return found


def _default(field: Any) -> str:
    if field.required:
        return "needed"
    made = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if isinstance(made, str | int | float) and made != "":
        return f"`{msgspec.json.encode(made).decode()}`"
    return "none"


def _words(shape: Any) -> str:
    match shape:
        case shapes.UnionType():
            inner = [each for each in shape.types if not isinstance(each, shapes.NoneType)]
            return " or ".join(_words(each) for each in inner)
        case shapes.LiteralType():
            return ", ".join(f"`{value}`" for value in shape.values)
        case shapes.StructType():
            return f"`{shape.cls.__name__}`"
        case shapes.VarTupleType() | shapes.ListType():
            most = f", at most {shape.max_length:,}" if shape.max_length else ""
            return f"list of {_words(shape.item_type)}{most}"
        case shapes.StrType():
            most = f", at most {shape.max_length:,} characters" if shape.max_length else ""
            return f"text{most}{f', matching `{shape.pattern}`' if shape.pattern else ''}"
        case shapes.IntType() | shapes.FloatType():
            kind = "whole number" if isinstance(shape, shapes.IntType) else "number"
            least, most = shape.ge if shape.ge is not None else shape.gt, shape.le
            if least is None:
                return kind
            over = "over" if shape.ge is None else "from"
            return f"{kind} {over} {least:,}" + (f" to {most:,}" if most is not None else "")
        case shapes.BoolType():
            return "true or false"
    return type(shape).__name__.removesuffix("Type").lower()


def _providers() -> str:
    from dpc_jupyter.backends import providers

    kinds: Iterable[Any] = providers.Entry.__args__
    return "\n".join(f'## `"type": "{kind.__struct_config__.tag}"`\n\n{_struct(kind)}\n' for kind in kinds)


# Writing.


def _summary(kind: type) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].split())


def _rst(text: str) -> str:
    from sphinx.ext.napoleon import Config, NumpyDocstring

    return _directive(str(NumpyDocstring(inspect.cleandoc(text), Config(napoleon_use_ivar=True), what="class")))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


_PARTS: dict[str, Callable[..., str]] = {
    "magics": _magics,
    "commands": _commands,
    "class": _class,
    "errors": _errors,
    "messages": _messages,
    "struct": _struct,
    "providers": _providers,
}
