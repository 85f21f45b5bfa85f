"""What a peer's SDP may say: a text in, a checked description out, and the text that aiortc is given instead.

The peer's own text never reaches aiortc. It may ask for video, name a host that is to be looked up, list a thousand
addresses or two fingerprints of which nobody knows which one counts; what is made here holds none of it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from dpc_jupyter.errors import HandshakeError

# aiortc's own is 1 KiB and 80 bytes an address. Chromium's with every codec of a video call takes 8 KiB.
SDP_LIMIT_BYTES = 64 * 1024
# A machine with a dozen virtual interfaces has 24 addresses. RFC 8445 section 19.5.1 checks 100 pairs at most.
CANDIDATES_LIMIT = 32
# RFC 8841 section 6: what may be sent to a peer that names no limit.
MESSAGE_LIMIT_BYTES = 64 * 1024

_FINGERPRINT = re.compile(r"(?:[0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}")
_MID = re.compile(r"[0-9A-Za-z_-]{1,32}")
_USERNAME = re.compile(r"[0-9A-Za-z+/]{4,256}")  # RFC 8445 section 5.3
_PASSWORD = re.compile(r"[0-9A-Za-z+/]{22,256}")
_CANDIDATE = re.compile(
    r"(?P<foundation>[0-9A-Za-z+/]{1,32}) 1 udp (?P<priority>[0-9]{1,10}) (?P<host>[0-9A-Fa-f.:]{2,45}) "
    r"(?P<port>[0-9]{1,5}) typ (?P<type>host|srflx|relay)(?: .*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address at which the peer says it can be reached, over UDP."""

    foundation: str
    priority: int
    host: str
    port: int
    type: str


@dataclass(frozen=True, slots=True)
class Description:
    """One end of a data channel.

    Attributes
    ----------
    fingerprint : bytes
        SHA-256 of the certificate that this end shows in DTLS.
    setup : str
        Its part in DTLS: ``actpass``, ``active`` or ``passive``.
    candidates : tuple of Candidate
        `CANDIDATES_LIMIT` at most, never of this machine itself or of many machines.
    """

    mid: str
    username: str
    password: str
    fingerprint: bytes
    setup: str
    sctp_port: int
    candidates: tuple[Candidate, ...]

    def text(self) -> str:
        """This description, and nothing else, as SDP."""
        lines = [
            *("v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0", f"a=group:BUNDLE {self.mid}"),
            *("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0", f"a=mid:{self.mid}"),
            *(f"a=sctp-port:{self.sctp_port}", f"a=max-message-size:{MESSAGE_LIMIT_BYTES}"),
            *(
                f"a=candidate:{each.foundation} 1 udp {each.priority} {each.host} {each.port} typ {each.type}"
                for each in self.candidates
            ),
            *("a=end-of-candidates", f"a=ice-ufrag:{self.username}", f"a=ice-pwd:{self.password}"),
            *(f"a=fingerprint:sha-256 {self.fingerprint.hex(':').upper()}", f"a=setup:{self.setup}"),
        ]
        return "\r\n".join(lines) + "\r\n"


def read(text: str) -> Description:
    """Check a peer's SDP and keep what a data channel needs of it.

    Raises
    ------
    HandshakeError
        It is too large, describes anything but one data channel, or holds not exactly one SHA-256 fingerprint.
    """
    if len(text.encode(errors="replace")) > SDP_LIMIT_BYTES:
        raise HandshakeError(f"The peer's SDP is larger than {SDP_LIMIT_BYTES // 1024} KiB.")
    lines = text.splitlines()
    media = [line for line in lines if line.startswith("m=")]
    if len(media) != 1 or not re.fullmatch(r"m=application [0-9]+ (UDP|TCP)/DTLS/SCTP webrtc-datachannel", media[0]):
        raise HandshakeError("The peer's SDP describes something else than one data channel.")
    if "a=ice-lite" in lines:
        raise HandshakeError("The peer's SDP asks for ICE lite, which no node uses.")
    port, size = _attribute(lines, "sctp-port"), _attribute(lines, "max-message-size", str(MESSAGE_LIMIT_BYTES))
    if not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise HandshakeError("The peer's SDP names no SCTP port.")
    if not re.fullmatch("[0-9]{1,19}", size) or 0 < int(size) < MESSAGE_LIMIT_BYTES:
        raise HandshakeError(f"The peer takes no messages of {MESSAGE_LIMIT_BYTES // 1024} KiB.")
    setup = _attribute(lines, "setup")
    if setup not in ("actpass", "active", "passive"):
        raise HandshakeError("The peer's SDP names no part in DTLS.")
    return Description(
        mid=_match(_MID, _attribute(lines, "mid"), "media id"),
        username=_match(_USERNAME, _attribute(lines, "ice-ufrag"), "ICE user name"),
        password=_match(_PASSWORD, _attribute(lines, "ice-pwd"), "ICE password"),
        fingerprint=_fingerprint(lines),
        setup=setup,
        sctp_port=int(port),
        candidates=_candidates(lines),
    )


def _attribute(lines: list[str], name: str, default: str = "") -> str:
    """Its one value. That it stands twice is refused: two readers could take different ones."""
    found = [line.partition(":")[2] for line in lines if line.startswith(f"a={name}:")]
    if len(found) > 1:
        raise HandshakeError(f"The peer's SDP names {name} twice.")
    return found[0].strip() if found else default


def _match(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise HandshakeError(f"The peer's SDP has no usable {what}.")
    return text


def _fingerprint(lines: list[str]) -> bytes:
    stated = [line.partition(":")[2].split() for line in lines if line.lower().startswith("a=fingerprint:")]
    found = [words for words in stated if words[:1] and words[0].lower() == "sha-256"]
    if len(found) != 1 or len(found[0]) != 2 or not _FINGERPRINT.fullmatch(found[0][1]):
        raise HandshakeError("The peer's SDP does not hold exactly one SHA-256 fingerprint.")
    return bytes.fromhex(found[0][1].replace(":", ""))


def _candidates(lines: list[str]) -> tuple[Candidate, ...]:
    found = {}
    for line in lines:
        if line.startswith("a=candidate:") and (match := _CANDIDATE.fullmatch(line.partition(":")[2].strip())):
            candidate = Candidate(
                match["foundation"], int(match["priority"]), match["host"], int(match["port"]), match["type"].lower()
            )
            if candidate.priority < 2**32 and 0 < candidate.port < 65536 and _may_be_tried(candidate.host):
                found[candidate.host, candidate.port] = candidate
    best = sorted(found.values(), key=lambda candidate: -candidate.priority)
    return tuple(best[:CANDIDATES_LIMIT])


def _may_be_tried(host: str) -> bool:
    """ICE sends to whatever a peer names: not to this machine itself, and not to many at once."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return False
    return not (ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_reserved)
