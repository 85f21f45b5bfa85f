"""One line of the result, as a person and as a program reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table


@dataclass(frozen=True)
class Row:
    """A metric beside a peer's.

    Attributes
    ----------
    ours, peer : float or None
        In `unit`, medians over the rounds; None where it was not measured.
    ratio : float or None
        The median of each round's ours / peer.
    target : str
        ``<= 3``: of the ratio, or of `ours` where there is no peer. Empty: for information.
    ok : bool or None
        None where there is no target or no measurement.
    """

    metric: str
    unit: str
    ours: float | None
    peer: float | None
    peer_name: str
    ratio: float | None
    target: str
    ok: bool | None


def row(
    metric: str,
    unit: str,
    ours: float,
    target: str = "",
    *,
    peer: float | None = None,
    peer_name: str = "",
    ratio: float | None = None,
) -> Row:
    """Judge a measurement."""
    judged = ratio if peer_name else ours
    return Row(metric, unit, ours, peer, peer_name, ratio, target, _meets(judged, target))


def missing(metric: str, unit: str, target: str, peer_name: str) -> Row:
    """A row whose peer is not here."""
    return Row(metric, unit, None, None, peer_name, None, target, None)


def _meets(value: float | None, target: str) -> bool | None:
    if not target or value is None or math.isnan(value):
        return None
    sign, limit = target.split()
    return value <= float(limit) if sign == "<=" else value >= float(limit)


def as_table(rows: Sequence[Row]) -> Table:
    """For a terminal."""
    table = Table("metric", "unit", "ours", "peer", "against", "ratio", "target", "ok")
    for column in (2, 3, 5):
        table.columns[column].justify = "right"
    for line in rows:
        ok = {True: "[green]yes[/]", False: "[red]NO[/]", None: "-"}[line.ok]
        numbers = (_shown(line.ours), _shown(line.peer), line.peer_name or "-", _shown(line.ratio))
        table.add_row(line.metric, line.unit, *numbers, line.target or "-", ok)
    return table


def write(rows: Sequence[Row], path: Path) -> None:
    """As JSON: a list of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(line) for line in rows], indent=2, allow_nan=False) + "\n", "utf-8")


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
