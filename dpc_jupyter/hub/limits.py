"""How much a hub takes from anyone, and the bucket that counts it. Each process of a hub counts for itself."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

# Sockets that one node may hold: a person's notebooks on a few machines.
SESSIONS_PER_NODE = 16
# In one process; at 64 KiB each that is 640 MiB. More is what a second process is for.
SESSIONS_LIMIT = 10_000
# A body of PUT /me with 1,024 words fits; nginx takes 1 MiB by default.
BODY_LIMIT_BYTES = 64 * 1024
# What waits for one reader beyond the transport's own 64 KiB: four of the longest messages.
OUTBOX_LIMIT_BYTES = 256 * 1024
# For a reader whose buffers are full to take some of it; nginx's send_timeout is 60 s, for pages.
SLOW_READER_S = 10.0
ADVERTS_LIMIT = 100_000

# (a second for ever, at once). Whole JupyterHubs come from one address, and log in together when the hub comes back.
LOGIN_CALLS_PER_ADDRESS = (20.0, 2500.0)
LOGINS_PER_NODE = (0.5, 32.0)
OPENINGS_PER_NODE = (1.0, 32.0)
# One connection takes an offer and an answer; a host answers a class that starts at once.
SIGNALS_PER_NODE = (20.0, 200.0)
SEARCHES_PER_NODE = (2.0, 20.0)
ADVERTS_PER_NODE = (0.5, 10.0)

_KEYS_LIMIT = 100_000


class Rate:
    """A token bucket for each key.

    Parameters
    ----------
    limit : (float, float)
        How many a second may go on for ever, and how many one that was quiet may take at once.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(self, limit: tuple[float, float], clock: Callable[[], float]) -> None:
        self._per_s, self._at_once = limit
        self._clock = clock
        self._full_at: dict[str, float] = {}  # when each bucket is full again; whoever took last stands last

    def take(self, key: str) -> float:
        """Take one; returns 0, or if there is none, the seconds until there is."""
        now = self._clock()
        before = self._full_at.pop(key, now)
        full_at = max(before, now) + 1 / self._per_s
        wait_s = full_at - now - self._at_once / self._per_s
        self._full_at[key] = before if wait_s > 0 else full_at
        first = next(iter(self._full_at))
        if self._full_at[first] <= now or len(self._full_at) > _KEYS_LIMIT:
            del self._full_at[first]
        return max(0.0, wait_s)


def address_key(host: str | None) -> str:
    """An address as limits count it: an IPv6 customer has a whole /64."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return host or ""
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
