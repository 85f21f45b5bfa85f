"""Watches a page for anything that a hostile text brought about."""

# ruff: noqa: E501 (JavaScript)

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Dialog, Error, Frame, Page, Request, Route, WebSocket

from browser.hostile_texts import EVIL

# In every frame, before anything else. Nothing of Lab's, nbconvert's or ours matches ACTING.
_SCRIPT = r"""(() => {
  const seen = window.__seen = [];
  const tell = (what) => seen.length < 50 && seen.push(what.slice(0, 300));
  Object.defineProperty(window, "hacked", { set: (value) => tell(`a script ran: ${value} ${new Error().stack}`), get: () => undefined });
  const handlers = ["error", "load", "click", "focus", "toggle", "begin", "mouseover", "pointerover"].map((name) => `[on${name}]`);
  const ACTING = [...handlers, "[src*='evil.']", "[srcset*='evil.']", "[data*='evil.']", "[poster]", "[background*='evil.']",
    "[style*='evil.']", "link[href*='evil.']", "[action]", "[formaction]", "[ping]", "[srcdoc]", "[href^='javascript' i]",
    "[href^='data:text' i]", "[href^='vbscript' i]", "[href^='file:' i]", "[*|href^='javascript' i]", "[id*='pwned']", "[name*='pwned']",
    "[class~='pwned']", "[data-commandlinker-command]", "mjx-container [href]", "base", "object", "embed", "iframe",
    "meta[http-equiv='refresh' i]", "foreignObject iframe", "animate[onbegin]", "noscript img", "template"].join();
  // Lab makes a link of any scheme in plain text, javascript:// too; that none of them runs is for click_everything to show.
  const isLabsOwn = (each) => each.matches(".jp-RenderedText a[target=_blank][rel~=noopener]");
  const look = (node) => {
    if (node.nodeType !== 1) return;
    for (const each of [node, ...node.querySelectorAll("*")]) {
      if (each.matches(ACTING) && !isLabsOwn(each)) tell(`an element that acts: ${each.outerHTML}`);
      if (/^(style|script)$/i.test(each.localName) && /evil\.|hacked=/.test(each.textContent)) tell(`a <${each.localName}>: ${each.textContent}`);
    }
  };
  new MutationObserver((changes) => {
    for (const { type, target, addedNodes } of changes) {
      if (type === "childList") addedNodes.forEach(look);
      else if (target.matches(ACTING)) tell(`an element that acts: ${target.outerHTML}`);
    }
  }).observe(document, { childList: true, subtree: true, attributes: true,
    attributeFilter: ["src", "href", "style", "id", "class", "name", "onerror", "onclick", "onload", "data-commandlinker-command"] });
})()"""

# Where our text is shown; without what Lab and MathJax put in: an invisible function application, a zero-width joint.
_CHARACTERS = r"""() => {
  const hostile = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]|\udb40/;
  const found = [];
  for (const root of document.querySelectorAll(".dpc, .jp-OutputArea-output")) {
    for (const each of [root, ...root.querySelectorAll("*")]) {
      if (each.closest("mjx-container")) continue;
      for (const { name, value } of each.attributes) if (hostile.test(value)) found.push(`${name}=${JSON.stringify(value)}`);
      for (const { nodeType, data } of each.childNodes) if (nodeType === 3 && hostile.test(data)) found.push(JSON.stringify(data));
    }
  }
  return found;
}"""

# Of many links to one place, one.
_CLICK = """(selector) => {
  const links = [], seen = new Set();
  for (const each of document.querySelectorAll(selector)) {
    const href = each.getAttribute("href"), labs = Boolean(each.closest(".jp-RenderedText"));
    // Of a path in an error's text Lab makes a link to the server's file, in this tab; "/" is its root, whose path is "".
    const isRoot = labs && href === "" && each.textContent === "/" && !each.target && !each.rel;
    if (each.localName === "a") links.push([href, each.target, each.rel, labs, isRoot, each.parentElement.outerHTML.slice(0, 300)]);
    if (!href || !seen.has(href + labs)) each.click();
    seen.add(href + labs);
  }
  return links;
}"""

_COMMANDS = r"""() => {
  window.__commands = [];
  jupyterapp.commands.commandExecuted.connect((_, { id }) => window.__commands.push(id));
}"""


@dataclass
class Watch:
    """One page, from before it is loaded; `assert_nothing_happened` tells of all since then.

    Attributes
    ----------
    own : str
        The start of every address that the page itself may ask for.
    ignored : frozenset of str
        Hosts that are asked by somebody else's template: blocked, and not held against us.
    """

    page: Page
    own: str
    ignored: frozenset[str] = frozenset()
    left: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    popups: list[Page] = field(default_factory=list)
    gone_to: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.add_init_script(_SCRIPT)
        self.context.route(lambda url: not url.startswith(self.own), self._route)
        self.context.on("page", lambda popup: self.popups.append(popup))
        self.page.on("dialog", self._dialog)
        self.page.on("websocket", self._socket)
        self.page.on("framenavigated", self._gone)

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _socket(self, socket: WebSocket) -> None:
        self._note(socket.url.replace("ws:", "http:", 1))

    def _gone(self, frame: Frame) -> None:
        if frame.parent_frame is None:
            self.gone_to.append(frame.url)

    @property
    def context(self) -> BrowserContext:
        return self.page.context

    def _note(self, url: str) -> bool:
        allowed = url.startswith((self.own, "blob:", "data:"))
        if not allowed and urlsplit(url).hostname not in self.ignored:
            self.left.append(url)
        return allowed

    def _route(self, route: Route) -> None:
        if self._is_of_a_popup(route.request):
            web = route.request.url.startswith("http")
            route.fulfill(body="<!doctype html>", content_type="text/html") if web else route.abort()
        elif self._note(route.request.url):
            route.continue_()
        else:
            route.abort()

    def _is_of_a_popup(self, request: Request) -> bool:
        """Whether a link is followed that the test has clicked."""
        try:
            return request.is_navigation_request() and request.frame.page != self.page
        except Error:  # its page is not even there yet
            return True

    def watch_commands(self) -> None:
        """In Lab, once it is there."""
        self.page.evaluate(_COMMANDS)

    def commands(self) -> list[str]:
        found: list[str] = self.page.evaluate("window.__commands")
        return found

    def assert_nothing_happened(self) -> None:
        """Nothing left the page, nothing ran, nothing acts, nothing hides."""
        assert self.left == [], self.left
        assert self.dialogs == [], self.dialogs
        assert self.gone_to and all(url.startswith(self.own) for url in self.gone_to), self.gone_to
        for frame in self.page.frames:
            assert (seen := frame.evaluate("window.__seen")) == [], seen
        assert (hidden := self.page.evaluate(_CHARACTERS)) == [], hidden

    def click_everything(self, within: str) -> list[str]:
        """Click every link and button there; links open in a tab of their own that knows nothing of this page."""
        opened = []
        links = self.page.evaluate(_CLICK, f"{within} :is(a[href], button, summary)")
        for href, target, rel, labs, is_root, html in links:
            assert labs or href.startswith((f"{EVIL}/", "mailto:")), href
            assert is_root or (target == "_blank" and "noopener" in rel), html
            opened.append(href)
        self.page.wait_for_timeout(300)
        for popup in self.popups:
            with contextlib.suppress(Error):  # one for mailto: closes by itself
                opener, seen = popup.evaluate("[opener, window.__seen ?? []]")
                assert opener is None and not any("a script ran" in each for each in seen), (popup.url, opener, seen)
                popup.close()
        self.popups.clear()
        return opened
