"""The line that people paste, and the proof that serves for one link alone."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc_jupyter.errors import InvitationError
from dpc_jupyter.identity import Identity
from dpc_jupyter.protocol.connection import State
from dpc_jupyter.protocol.invitation import PREFIX, Invitation, is_address, proof, proves
from protocol.ends import Pair, client_of, server_of
from protocol.test_messages import GUEST, HOST, load_plain

SECRET = bytes(range(16))
INVITATION = Invitation(HOST.node_id, "00112233445566ff", SECRET, ("192.0.2.7:8889", "[2001:db8::7]:8889"))
LINE = str(INVITATION)
IDS = (GUEST.node_id, HOST.node_id, INVITATION.invite_id)


def test_a_line_is_one_word_and_is_read_back() -> None:
    assert LINE == (
        "dpc-invite:Abu7u7u7u7u7u7u7u7u7u7sAESIzRFVm_wABAgMEBQYHCAkKCwwNDg8x"
        "OTIuMC4yLjc6ODg4OSBbMjAwMTpkYjg6OjddOjg4ODmrehBM"
    )
    assert Invitation.parse(LINE) == INVITATION


def test_a_host_without_an_address_is_named_by_its_hub() -> None:
    for hub in ("https://hub.example.org:8890", "https://[2001:db8::7]", "http://127.0.0.1:8890"):
        for addresses in ((), INVITATION.addresses):
            made = Invitation(HOST.node_id, INVITATION.invite_id, SECRET, addresses, hub)
            assert Invitation.parse(str(made)) == made
    for wrong in ("", "ftp://hub.example.org", "https://hub.example.org/x", "https://a b"):
        with pytest.raises(InvitationError, match="names no address"):
            Invitation.parse(str(Invitation(HOST.node_id, INVITATION.invite_id, SECRET, (), wrong)))


def test_the_secret_is_not_shown_where_an_invitation_is() -> None:
    assert "secret" not in repr(INVITATION)


@pytest.mark.parametrize(
    "pasted",
    [
        f"  {LINE}\n",
        f'"{LINE}"',
        f"'{LINE}'",
        f"`{LINE}`",
        f"“{LINE}”",
        f"<{LINE}>",
        f"{LINE[:40]}\n{LINE[40:80]}\n{LINE[80:]}",
        f"> {LINE[:40]}\r\n> {LINE[40:]}",
        f"dpc-\n{LINE[4:]}",
        f"{LINE[:30]}\u200b{LINE[30:]}\ufeff",
        f"Here it is: {LINE}.",
        f"(%dpc_join {LINE})",
    ],
)
def test_what_mail_and_chat_do_to_a_line_does_no_harm(pasted: str) -> None:
    assert Invitation.parse(pasted) == INVITATION


def line_of(packed: bytes) -> str:
    checked = packed + hashlib.sha256(packed).digest()[:4]
    return PREFIX + base64.urlsafe_b64encode(checked).decode().rstrip("=")


HEAD = b"\1" + bytes(16) + bytes(8) + bytes(16)


@pytest.mark.parametrize(
    ("pasted", "said"),
    [
        ("", "That is no invitation: one begins with dpc-invite:"),
        ("dpc://192.0.2.7:8889?node_id=" + HOST.node_id, "That is no invitation"),
        (PREFIX, "not whole"),
        (PREFIX + "AAAA", "not whole"),
        (PREFIX + "A", "damaged"),
        (PREFIX + "é" + LINE[11:], "damaged"),
        (LINE + "?x=1", "damaged"),
        (LINE[:-1], "not whole|damaged"),
        (LINE[:-30], "not whole|damaged"),
        (LINE[:50] + "A" + LINE[51:], "not whole, or has a wrong letter"),
        (LINE + LINE, "damaged"),
        (f"{LINE} see you", "not whole|damaged"),
        (line_of(b"\2" + HEAD[1:] + b"h:1"), "is of version 2, and this dpc-jupyter reads version 1: update"),
        (line_of(b"\1"), "names no address"),
        (line_of(HEAD), "names no address"),
        (line_of(HEAD + b"h"), "names no address"),
        (line_of(HEAD + b"h:0"), "names no address"),
        (line_of(HEAD + b"h:1\nh:2"), "names no address"),
        (line_of(HEAD + b"u@h:1"), "names no address"),
        (line_of(HEAD + b"h:1 " * 6 + b"h:1"), "names no address"),
        (line_of(HEAD + b"\xff:1"), "names no address"),
    ],
)
def test_a_malformed_line_is_refused_with_what_to_do(pasted: str, said: str) -> None:
    with pytest.raises(InvitationError, match=said) as refused:
        Invitation.parse(pasted)
    assert "ask for a new one" in str(refused.value) or "update" in str(refused.value)


@given(st.text() | st.text("Aa0-_=+/ \n").map(PREFIX.__add__))
def test_no_text_raises_anything_else(text: str) -> None:
    with pytest.raises(InvitationError):
        Invitation.parse(text)


@pytest.mark.parametrize(
    "address", ["h:1", "192.0.2.1:65535", "[::1]:8889", "[fe80::1%eth0]:8889", "lab-1.example:8889"]
)
def test_a_host_and_a_port_are_an_address(address: str) -> None:
    assert is_address(address)


@pytest.mark.parametrize(
    "address", ["", "h", "h:", ":1", "::1:8889", "h:65536", "h:-1", "a b:1", "h/x:1", "h:1?x", "h:٣"]
)
def test_what_else_there_is_is_none(address: str) -> None:
    assert not is_address(address)


def test_the_proof_is_as_the_protocol_says() -> None:
    """Written out by hand: another implementation must come to the same bytes."""
    binding = bytes(64)
    said = b"dpc-jupyter invitation 1\0"
    for part in (binding, GUEST.node_id.encode(), HOST.node_id.encode(), b"00112233445566ff"):
        said += len(part).to_bytes(2, "big") + part
    assert proof(SECRET, binding, *IDS) == hmac.digest(SECRET, said, "sha256").hex()


def test_a_proof_serves_for_one_secret_one_link_and_one_pair_of_nodes() -> None:
    binding, other = b"\1" * 64, "dpc-node-" + "c" * 32
    made = proof(SECRET, binding, *IDS)
    assert proves(made, SECRET, binding, *IDS)
    assert not proves(made, bytes(16), binding, *IDS)
    assert not proves(made, SECRET, b"\2" * 64, *IDS)
    assert not proves(made, SECRET, binding, other, *IDS[1:])
    assert not proves(made, SECRET, binding, IDS[0], other, IDS[2])
    assert not proves(made, SECRET, binding, *IDS[:2], "00112233445566fe")
    assert not proves("", SECRET, binding, *IDS)
    assert not proves("é", SECRET, binding, *IDS)


def test_fields_cannot_run_into_each_other() -> None:
    assert proof(SECRET, b"b", "ab", "c", "d") != proof(SECRET, b"b", "a", "bc", "d")


def test_both_ends_of_a_link_have_one_binding_and_no_other_link_has_it(pair: Pair) -> None:
    pair.open()
    assert pair.client.binding == pair.server.binding and len(pair.client.binding) == 64
    again = Pair(GUEST, HOST, load_key=load_plain)
    again.server = server_of(HOST, load_key=load_plain, salt=bytes(32))
    assert again.open().server.state is State.OPEN
    assert again.client.binding == again.server.binding != pair.server.binding


def test_with_somebody_in_the_middle_the_two_ends_have_different_bindings(evil_id: Identity) -> None:
    """A host marked legacy_ok lets a middle pass its nonce on; even then the certificates differ."""
    server = server_of(HOST, lambda _: True, load_plain)
    client = client_of(GUEST, HOST, lambda _: True, load_plain)
    client._server_cert_der = evil_id.cert_der  # what the middle showed
    challenge = server.data_to_send()
    cb = challenge.index(b',"cb"')
    stripped = challenge[10:cb] + b"}}"
    list(client.receive_data(b"%010d" % len(stripped) + stripped))
    list(server.receive_data(client.data_to_send()))
    server.admit()
    list(client.receive_data(server.data_to_send()))
    assert client.state is server.state is State.OPEN
    assert client.binding[:32] == server.binding[:32]
    made = proof(SECRET, client.binding, *IDS)
    assert proves(made, SECRET, client.binding, *IDS) and not proves(made, SECRET, server.binding, *IDS)
