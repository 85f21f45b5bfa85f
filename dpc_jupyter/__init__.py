"""Remote LLM inference between trusted peers, inside a notebook: ``%load_ext dpc_jupyter``, then ``%%dpc_ask?``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpc_jupyter.errors import AccessDenied as AccessDenied
    from dpc_jupyter.errors import Busy as Busy
    from dpc_jupyter.errors import ConnectError as ConnectError
    from dpc_jupyter.errors import DpcError as DpcError
    from dpc_jupyter.errors import InferenceError as InferenceError
    from dpc_jupyter.errors import InferenceTimeout as InferenceTimeout
    from dpc_jupyter.errors import ModelNotFound as ModelNotFound
    from dpc_jupyter.errors import PeerLost as PeerLost
    from dpc_jupyter.errors import PeerNotConnected as PeerNotConnected
    from dpc_jupyter.home import Home as Home
    from dpc_jupyter.jupyter.extension import current_node as current_node
    from dpc_jupyter.jupyter.extension import load_ipython_extension as load_ipython_extension
    from dpc_jupyter.jupyter.extension import unload_ipython_extension as unload_ipython_extension
    from dpc_jupyter.jupyter.widgets import Chat as Chat
    from dpc_jupyter.jupyter.widgets import FirewallEditor as FirewallEditor
    from dpc_jupyter.jupyter.widgets import HostPicker as HostPicker
    from dpc_jupyter.jupyter.widgets import NodePanel as NodePanel
    from dpc_jupyter.node.asking import Answer as Answer
    from dpc_jupyter.node.core_service import CoreService as CoreService
    from dpc_jupyter.node.thread import BackgroundNode as BackgroundNode

    __version__: str

# Imported when first used, so that loading the extension costs a kernel next to nothing.
_HOME_OF = {
    **dict.fromkeys(
        (
            *("AccessDenied", "Busy", "ConnectError", "DpcError", "InferenceError", "InferenceTimeout"),
            *("ModelNotFound", "PeerLost", "PeerNotConnected"),
        ),
        "dpc_jupyter.errors",
    ),
    **dict.fromkeys(("Chat", "FirewallEditor", "HostPicker", "NodePanel"), "dpc_jupyter.jupyter.widgets"),
    "Answer": "dpc_jupyter.node.asking.answer",
    "BackgroundNode": "dpc_jupyter.node.thread",
    "CoreService": "dpc_jupyter.node.core_service",
    "Home": "dpc_jupyter.home",
    "current_node": "dpc_jupyter.jupyter.extension",
    "load_ipython_extension": "dpc_jupyter.jupyter.extension",
    "unload_ipython_extension": "dpc_jupyter.jupyter.extension",
}
__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dpc-jupyter")
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
