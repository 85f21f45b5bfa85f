"""What a peer's SDP may say."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc_jupyter.errors import HandshakeError
from dpc_jupyter.transports import sdp

FINGERPRINT = ":".join(["AB"] * 32)
# What aiortc 1.16 writes, shortened.
OFFER = f"""v=0
o=- 4004401004 4004401004 IN IP4 0.0.0.0
s=-
t=0 0
a=group:BUNDLE 0
a=msid-semantic:WMS *
m=application 47823 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 192.0.2.7
a=mid:0
a=sctp-port:5000
a=max-message-size:262144
a=candidate:f957a2332b1715da3b0ef8ba684454eb 1 udp 2130706431 192.0.2.7 47823 typ host
a=candidate:d0bcf3d9c29a2bc887618212a1623bfa 1 udp 2130706430 fd00::2 53513 typ srflx raddr 0.0.0.0 rport 9
a=end-of-candidates
a=ice-ufrag:H6yn
a=ice-pwd:pHFbNJMeIdl8ZIZtOlxtUx
a=fingerprint:sha-256 {FINGERPRINT}
a=fingerprint:sha-384 30:1E
a=setup:actpass
""".replace("\n", "\r\n")


def with_candidate(host: str, port: int | str = 1, rest: str = "typ host", transport: str = "udp") -> str:
    return OFFER + f"a=candidate:x 1 {transport} 1 {host} {port} {rest}\r\n"


def test_an_honest_description_is_read_and_written_again() -> None:
    found = sdp.read(OFFER)
    assert found.fingerprint == b"\xab" * 32 and found.setup == "actpass" and found.mid == "0"
    assert (found.username, found.password, found.sctp_port) == ("H6yn", "pHFbNJMeIdl8ZIZtOlxtUx", 5000)
    assert [(each.host, each.port, each.type) for each in found.candidates] == [
        ("192.0.2.7", 47823, "host"),
        ("fd00::2", 53513, "srflx"),
    ]
    assert sdp.read(found.text()) == found


def test_aiortc_reads_what_is_written_as_it_is_meant() -> None:
    from aiortc.sdp import SessionDescription

    (media,) = SessionDescription.parse(sdp.read(OFFER).text()).media
    assert media.dtls is not None and media.ice is not None
    assert [(each.algorithm, each.value) for each in media.dtls.fingerprints] == [("sha-256", FINGERPRINT)]
    assert (media.ice.usernameFragment, media.sctp_port, len(media.ice_candidates)) == ("H6yn", 5000, 2)
    assert media.ice_candidates_complete


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (f"a=fingerprint:sha-256 {FINGERPRINT}\r\n", "", "exactly one"),
        ("a=setup", f"a=fingerprint:sha-256 {FINGERPRINT}\r\na=setup", "exactly one"),
        ("a=setup", f"a=FINGERPRINT:SHA-256   {FINGERPRINT}\r\na=setup", "exactly one"),
        ("s=-", f"s=-\r\na=fingerprint:Sha-256 {FINGERPRINT}", "exactly one"),
        (FINGERPRINT, "AB:CD", "exactly one"),
        (FINGERPRINT, FINGERPRINT + " x", "exactly one"),
        ("a=ice-ufrag:H6yn", "a=ice-ufrag:H6yn\r\na=ice-ufrag:evil", "twice"),
        ("a=setup:actpass", "a=setup:actpass\r\na=setup:active", "twice"),
        ("a=setup:actpass", "a=setup:holdconn", "part in DTLS"),
        ("a=ice-pwd:pHFbNJMeIdl8ZIZtOlxtUx", "a=ice-pwd:short", "password"),
        ("a=ice-ufrag:H6yn", "a=ice-ufrag:" + "x" * 257, "user name"),
        ("a=mid:0", "a=mid:0 0", "media id"),
        ("m=application", "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\nm=application", "one data channel"),
        ("m=application", "m=video", "one data channel"),
        ("a=max-message-size:262144", "a=max-message-size:1", "64 KiB"),
        ("a=sctp-port:5000", "a=sctp-port:99999", "SCTP port"),
        ("a=sctp-port:5000", "a=sctp-port:-1", "SCTP port"),
        ("a=mid:0", "a=mid:0\r\na=ice-lite", "ICE lite"),
        ("s=-", "s=" + "x" * 65536, "larger than 64 KiB"),
    ],
)
def test_what_is_no_plain_data_channel_is_refused_with_a_reason(old: str, new: str, says: str) -> None:
    assert old in OFFER
    with pytest.raises(HandshakeError, match=says):
        sdp.read(OFFER.replace(old, new, 1))


def test_no_limit_on_messages_is_as_good_as_a_high_one() -> None:
    assert sdp.read(OFFER.replace("262144", "0")) == sdp.read(OFFER)
    assert sdp.read(OFFER.replace("a=max-message-size:262144\r\n", "")) == sdp.read(OFFER)


@pytest.mark.parametrize(
    "extra",
    [
        with_candidate("127.0.0.1"),
        with_candidate("127.8.8.8"),
        with_candidate("::1"),
        with_candidate("::ffff:127.0.0.1"),
        with_candidate("224.0.0.251"),
        with_candidate("255.255.255.255"),
        with_candidate("ff02::fb"),
        with_candidate("0.0.0.0"),
        with_candidate("::"),
        with_candidate("laptop.local"),
        with_candidate("metadata.internal"),
        with_candidate("192.0.2.9", 0),
        with_candidate("192.0.2.9", 65536),
        with_candidate("192.0.2.9", transport="tcp"),
        with_candidate("192.0.2.9", rest="typ prflx"),
        with_candidate("fe80::1%eth0"),
    ],
)
def test_addresses_that_are_this_machine_many_machines_or_names_are_left_out(extra: str) -> None:
    assert sdp.read(extra) == sdp.read(OFFER)


def test_of_many_addresses_the_best_32_are_kept() -> None:
    many = OFFER + "".join(f"a=candidate:x 1 udp {n} 192.0.2.{n % 250 + 1} {n} typ host\r\n" for n in range(1, 500))
    kept = sdp.read(many).candidates
    assert len(kept) == sdp.CANDIDATES_LIMIT == 32
    assert min(each.priority for each in kept) == 470


@given(st.text(max_size=300))
def test_any_text_is_refused_or_read(text: str) -> None:
    for hostile in (text, OFFER + text, OFFER.replace("H6yn", text)):
        try:
            sdp.read(sdp.read(hostile).text())
        except HandshakeError:
            continue


def test_ten_thousand_mutations_are_refused_or_read() -> None:
    chance = random.Random(4)
    for _ in range(10_000):
        text = list(OFFER)
        for _ in range(chance.randint(1, 6)):
            where = chance.randrange(len(text))
            text[where : where + chance.choice((0, 1, 30))] = chance.choice(
                ("", "\0", "\r\n", "9" * 40, "a=", ":", "é")
            )
        try:
            found = sdp.read("".join(text))
        except HandshakeError:
            continue
        assert sdp.read(found.text()) == found
