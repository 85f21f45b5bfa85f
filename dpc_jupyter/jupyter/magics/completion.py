"""Tab completion behind the magics: their flags, and the hosts and models that are known now."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Callable, Iterable

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.magic import Magics

from dpc_jupyter.errors import DpcError
from dpc_jupyter.jupyter.notebook import LOCAL, Notebook
from dpc_jupyter.node.reaching import Directory
from dpc_jupyter.sanitize import is_word

_MAGIC = re.compile(r"\s*%{1,2}(dpc_\w+)\s+(.*)", re.DOTALL)


class Completer:
    """A matcher for IPython's completer; never asks a peer, so that Tab never waits for one."""

    def __init__(self, notebook: Notebook, magics: Iterable[Magics]) -> None:
        self._notebook = notebook
        self._parsers: dict[str, argparse.ArgumentParser] = {
            name: parser
            for group in magics
            for name in {*group.magics["line"], *group.magics["cell"]}
            if (parser := getattr(getattr(group, name), "parser", None)) is not None
        }

    def matcher(self) -> Callable[[CompletionContext], SimpleMatcherResult]:
        """Make what ``Completer.custom_matchers`` takes; with an offer of ours, Python's names are not offered."""

        @context_matcher(identifier="dpc")
        def match(context: CompletionContext) -> SimpleMatcherResult:
            found = _MAGIC.fullmatch(context.text_until_cursor)
            if found is None or found[1] not in self._parsers:
                return {"completions": []}
            *typed, word = re.split(r"\s+", found[2])
            offers = [
                each
                for each in self._candidates(found[1], typed, word)
                if each.startswith(word) and each != word and (word.startswith("-") or is_word(each))
            ]
            completions = [SimpleCompletion(text=each) for each in offers]
            return {"completions": completions, "matched_fragment": word, "ordered": True, "suppress": True}

        matcher: Callable[[CompletionContext], SimpleMatcherResult] = match
        return matcher

    def _candidates(self, name: str, typed: list[str], word: str) -> list[str]:
        parser = self._parsers[name]
        options = parser._option_string_actions
        if word.startswith("-"):
            return sorted(flag for flag in options if flag.startswith("--"))
        action = options.get(typed[-1]) if typed else None
        if action is not None and action.nargs != 0:
            kind = action.dest
        else:
            positional = parser._get_positional_actions()
            place = sum(not each.startswith("-") for each in typed)
            if place >= len(positional):
                return []
            kind = positional[place].dest
            if (choices := positional[place].choices) is not None:
                return sorted(map(str, choices))
        if kind == "host":
            return [*self._peers(), LOCAL]
        if kind in ("peer", "where", "who"):
            return self._peers()
        if kind in ("model", "models", "what"):
            return self._models(typed)
        return sorted(self._notebook.conversations) if kind == "conversation" else []

    def _peers(self) -> list[str]:
        """Everybody whom the user could mean: linked, dialled before, or named in the access file."""
        try:
            home, rules = self._notebook.home, self._notebook.access.rules
            directory = Directory(home, lambda: rules)
            linked = [] if (node := self._notebook.running) is None else node.status().peers
        except DpcError:
            return []
        return sorted({directory.name_of(known) for known in directory.known} | {peer.name for peer in linked})

    def _models(self, typed: list[str]) -> list[str]:
        if (node := self._notebook.running) is None:
            return []
        host = self._notebook.host
        for flag, value in itertools.pairwise(typed):
            host = value if flag in ("-H", "--host") else host
        try:
            if host == LOCAL:
                return sorted({model.model for model in node.run(node.service.models())})
            node_id = node.service.directory.find(host, [])
        except DpcError:
            return []
        return sorted({m.model for peer in node.status().peers if peer.node_id == node_id for m in peer.models})
