"""Over WebRTC, beside bare aiortc, which proves nobody's id and sends each token as a message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks.measure import Sample, interleave
from benchmarks.peers.ours import let_in
from benchmarks.peers.webrtc import BareAsker, OurWebRtcAsker
from benchmarks.rows import Row
from benchmarks.setting import OURS, Setting
from benchmarks.timing import latency_us, p50_us, rows_against, tokens_per_s

BARE = "bare aiortc"
_ASKER = "asker7"
_TOKENS_PER_S = 100


async def webrtc(setting: Setting) -> list[Row]:
    """Connecting to the first reply, tokens at once, and tokens at a pace."""
    let_in(setting.folder("webrtc-host"), [setting.node_id(_ASKER)])
    ours = await OurWebRtcAsker.joined(
        OURS,
        setting.folder(_ASKER),
        setting.processes.module("peers.webrtc", "ours", str(setting.folder("webrtc-host"))),
    )
    bare = BareAsker(BARE, child := setting.processes.module("peers.webrtc", "bare"))
    child.read()
    await bare.reconnect()
    try:
        return [
            *rows_against(
                "WebRTC: streamed tokens/s, one connection",
                "1/s",
                # Of longer answers bare aiortc loses datagrams, and a fifth of this speed is left.
                await _rounds(
                    setting, 15, lambda asker, quick: tokens_per_s(asker, 500 if quick else 2000), ours, bare
                ),
                "tokens_per_s",
                [(OURS, BARE, ">= 3")],
            ),
            *rows_against(
                f"WebRTC: latency a token at {_TOKENS_PER_S} tokens/s, p50",
                "µs",
                await _rounds(
                    setting, 6, lambda asker, quick: latency_us(asker, 20 if quick else 300, _TOKENS_PER_S), ours, bare
                ),
                "p50",
                [(OURS, BARE, "<= 1.2")],
            ),
            *rows_against(
                "WebRTC: connect to first reply, warm",
                "µs",
                await _rounds(setting, 9, _connect, ours, bare),
                "p50",
                [(OURS, BARE, "<= 1.5")],
            ),
        ]
    finally:
        await ours.close()
        await bare.close()


async def _connect(asker: OurWebRtcAsker | BareAsker, quick: bool) -> Sample:
    """The hub's part, two pipes here, is in both; so are the answerer's sockets."""

    async def once() -> None:
        await asker.reconnect()
        async for _ in asker.ask(1):
            pass

    return await p50_us(once, 2 if quick else 10, before=asker.disconnect)


async def _rounds(
    setting: Setting,
    rounds: int,
    act: Callable[[OurWebRtcAsker | BareAsker, bool], Awaitable[Sample]],
    ours: OurWebRtcAsker,
    bare: BareAsker,
) -> dict[str, list[Sample]]:
    contenders = {OURS: lambda: act(ours, setting.quick), BARE: lambda: act(bare, setting.quick)}
    return await interleave(2 if setting.quick else rounds, contenders)
