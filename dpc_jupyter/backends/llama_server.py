"""The embedded engine's own process: ``python -m dpc_jupyter.backends.llama_server``.

Its first line of standard input is an `EngineSettings` as JSON, its first line of standard output an `Address`.
It lives as long as standard input stays open: when the node dies, however it dies, the engine ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import msgspec

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class EngineSettings(msgspec.Struct, frozen=True):
    """What to load, and the key without which no other user of the machine is answered.

    Standard input carries it: arguments are visible to everyone, and the environment goes to children.

    Attributes
    ----------
    slots : int
        Generations at once.
    slot_tokens : int
        Context window of each slot, in tokens.
    threads : int
        For decoding and for reading prompts.
    """

    path: str
    name: str
    api_key: str
    slots: int
    slot_tokens: int
    threads: int


class Address(msgspec.Struct, frozen=True):
    """Where the engine listens: ``http://127.0.0.1:port``."""

    url: str


def main() -> None:
    """Load the model, listen on loopback, say where, and stay until standard input ends."""
    if sys.platform == "linux":
        # A child that the notebook forked may hold our standard input open after the node's death.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineSettings)
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings.path
    params.model_alias = {settings.name}
    params.api_keys = [settings.api_key]
    params.port = 0
    params.n_parallel = settings.slots
    params.n_ctx = settings.slots * settings.slot_tokens
    params.cpuparams.n_threads = settings.threads
    params.cpuparams_batch.n_threads = settings.threads
    cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    if all(device["type"] == cpu for device in xllamacpp.get_device_info()):
        # A prompt is read in pieces of so many tokens. Between two of them other slots decode and a cancel
        # counts: half a second on one core, where the default of 2,048 takes 15 s and reads no faster.
        params.n_batch = params.n_ubatch = max(64, settings.slots)
    params.cache_ram_mib = 0  # its default keeps up to 8 GiB of peers' old prompts
    params.ui = False
    server = xllamacpp.Server(params)
    sys.stdout.buffer.write(msgspec.json.encode(Address(server.listening_address)) + b"\n")
    sys.stdout.flush()
    # From here on it meets prompts, and none of its output is kept anywhere.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.stdin.buffer.read()
    os._exit(0)  # open streams would hold an orderly end back


if __name__ == "__main__":
    main()
