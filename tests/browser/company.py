"""People who cannot all dial each other: a hub, a host that is called over it, and one behind a peer that relays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hub.running_hub import RunningHub
from node.waiting import until_in_thread
from running_host import let_in, write_providers

from dpc_jupyter import firewall
from dpc_jupyter.home import Home
from dpc_jupyter.node.reaching.network import set_hub
from dpc_jupyter.node.thread import BackgroundNode

# Nothing listens there without root.
CLOSED = "127.0.0.1:1"


@dataclass
class Company:
    """Dora's address is known to the hub's visitors alone; anna's is an old one, and rita relays to her."""

    hub: RunningHub
    dora: BackgroundNode
    rita: BackgroundNode
    anna: BackgroundNode

    @property
    def rita_uri(self) -> str:
        uri = self.rita.status().uri
        assert uri is not None
        return uri


@contextmanager
def company(folder: Path, asker: Home) -> Iterator[Company]:
    """All of them let the asker in; its home knows the hub, and anna by an address where nobody is any more."""
    node_id = asker.load_identity().node_id
    homes = {name: Home(folder / name) for name in ("dora", "rita", "anna")}
    for home in homes.values():
        write_providers(home)
        let_in(home, node_id)
    anna_id = homes["anna"].load_identity().node_id
    homes["rita"].edit_access(lambda document: firewall.allow(document, anna_id, name="anna"))
    homes["rita"].edit_access(lambda document: firewall.set_relaying(document, True))
    old = {"name": "anna", "uri": f"dpc://{CLOSED}?node_id={anna_id}", "last_seen": int(time.time()) - 3600}
    asker.edit_peers(lambda known: {**known, anna_id: old})
    with ExitStack() as stack:
        hub = RunningHub(folder / "hub").start()
        stack.callback(hub.kill)
        for home in (homes["dora"], asker):
            set_hub(home, hub.url)
        nodes = {}
        for name, listen in (("dora", ("127.0.0.1", 0)), ("rita", ("127.0.0.1", 0)), ("anna", None)):
            nodes[name] = BackgroundNode(homes[name], name=name)
            stack.callback(nodes[name].stop)
            nodes[name].start(listen)
        made = Company(hub, **nodes)
        made.anna.run(made.anna.service.connect(made.rita_uri))
        until_in_thread(lambda: made.dora.status().hub.startswith("online"))
        let_in(homes["dora"], node_id)  # an edit is advertised at once, what has not changed within ten seconds
        until_in_thread(lambda: made.dora.service._rooms.presence._advertised)
        yield made
