from __future__ import annotations

import base64
import json
import secrets
import sqlite3
import time

import httpx
import jwt
import pytest

from dpc_jupyter.errors import HandshakeError, UriError
from dpc_jupyter.hub.limits import LOGIN_CALLS_PER_ADDRESS, LOGINS_PER_NODE, Rate, address_key
from dpc_jupyter.hub.tokens import CHALLENGE_S, TOKEN_S, Tokens, nonce_digest
from dpc_jupyter.hub.wire import origin_of, signed_bytes
from hub.conftest import Start
from hub.raw_node import RawNode, to_sign
from hub.running_hub import RunningHub

ORIGIN = "https://hub.lab:8890"


def secret_of(hub: RunningHub) -> bytes:
    with sqlite3.connect(hub.folder / "hub.sqlite3") as db:
        found = db.execute("SELECT value FROM settings WHERE key = 'secret'").fetchone()[0]
    db.close()
    return bytes.fromhex(found)


def test_a_key_is_proved_and_its_token_is_good(anna: RawNode) -> None:
    response = anna.post("/login", anna.proof(anna.nonce()))
    assert response.status_code == 200
    assert response.json()["node_id"] == anna.identity.node_id
    assert response.json()["expires_in_s"] == 900
    assert anna.call("GET", "/nodes", response.json()["token"]).status_code == 200


def test_a_proof_serves_once(anna: RawNode) -> None:
    proof = anna.proof(anna.nonce())
    assert anna.post("/login", proof).status_code == 200
    again = anna.post("/login", proof)
    assert again.status_code == 401
    assert "used before" in again.json()["detail"]


def test_another_key_does_not_log_in_as_this_node(anna: RawNode, eve: RawNode) -> None:
    nonce = anna.nonce()
    by_eve = anna.proof(nonce, signer=eve.identity)
    assert anna.post("/login", by_eve).status_code == 401
    with_her_certificate = by_eve | {"cert_pem": eve.identity.cert_pem.decode()}
    assert anna.post("/login", with_her_certificate).status_code == 401
    as_herself = eve.proof(nonce)  # a nonce that was made for another node
    assert "another node" in anna.post("/login", as_herself).json()["detail"]
    assert anna.post("/login", anna.proof(nonce)).status_code == 200  # none of that has used it up


def test_a_signature_for_another_hub_is_refused(anna: RawNode, hub: RunningHub) -> None:
    """Somebody else's hub asks us for a nonce, has a node sign it for itself, and brings us the signature."""
    for origin in ("https://evil.example", f"http://localhost:{hub.port}", hub.url + "/"):
        relayed = anna.post("/login", anna.proof(anna.nonce(), origin))
        assert relayed.status_code == 401
        assert hub.url in relayed.json()["detail"]


def test_what_is_signed_cannot_be_read_in_two_ways() -> None:
    assert signed_bytes("https://a", "b", "c") == to_sign("https://a", "b", "c")
    assert signed_bytes("https://a", "b", "c") != signed_bytes("https://ab", "", "c")


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "AAAA"},
        {"nonce": "!"},
        {"nonce": base64.urlsafe_b64encode(secrets.token_bytes(56)).decode()},
        {"signature": "?"},
        {"signature": ""},
        {"cert_pem": "-----BEGIN CERTIFICATE-----"},
        {"cert_pem": ""},
    ],
)
def test_a_proof_that_is_none_is_refused_in_a_sentence(anna: RawNode, change: dict[str, str]) -> None:
    response = anna.post("/login", anna.proof(anna.nonce()) | change)
    assert response.status_code == 401
    assert response.json()["detail"].endswith(".")


def test_a_challenge_ends_with_its_minute() -> None:
    now = [1000.0]
    tokens = Tokens(b"s" * 32, ORIGIN, lambda: now[0])
    nonce = tokens.challenge("dpc-node-" + "a" * 32)
    now[0] += CHALLENGE_S - 1
    tokens.check_challenge(nonce, "dpc-node-" + "a" * 32)
    now[0] += 1
    with pytest.raises(HandshakeError, match="too old"):
        tokens.check_challenge(nonce, "dpc-node-" + "a" * 32)


def test_a_challenge_spelled_in_another_way_is_the_same_one() -> None:
    tokens = Tokens(b"s" * 32, ORIGIN, time.time)
    nonce = tokens.challenge("dpc-node-" + "a" * 32)
    assert len(base64.urlsafe_b64decode(nonce)) % 3  # its last letter has bits to spare
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    at = nonce.index("=") - 1
    other = nonce[:at] + alphabet[alphabet.index(nonce[at]) ^ 1] + nonce[at + 1 :]
    tokens.check_challenge(other, "dpc-node-" + "a" * 32)
    assert nonce_digest(other) == nonce_digest(nonce)


def test_an_expired_token_is_refused_everywhere(anna: RawNode, hub: RunningHub) -> None:
    past = Tokens(secret_of(hub), hub.url, lambda: time.time() - TOKEN_S - 1).issue(anna.identity.node_id)
    assert anna.call("GET", "/nodes", past).status_code == 401
    nearly = Tokens(secret_of(hub), hub.url, lambda: time.time() - TOKEN_S + 60).issue(anna.identity.node_id)
    assert anna.call("GET", "/nodes", nearly).status_code == 200


def test_a_token_of_anybody_else_is_refused(anna: RawNode, hub: RunningHub) -> None:
    me, secret = anna.identity.node_id, secret_of(hub)
    claims = {"sub": me, "iss": hub.url, "exp": time.time() + 60}
    forged = [
        jwt.encode(claims, secret, algorithm="HS256"),  # the shared secret itself is not the key
        jwt.encode(claims, "", algorithm="none"),
        Tokens(b"other" * 8, hub.url, time.time).issue(me),
        Tokens(secret, "https://evil.example", time.time).issue(me),
        "x",
        "a.b.c",
    ]
    for token in forged:
        assert anna.call("GET", "/nodes", token).status_code == 401, token
    assert httpx.get(f"{hub.url}/nodes", trust_env=False).status_code == 401


def test_a_body_that_is_too_long_is_not_read(anna: RawNode) -> None:
    assert anna.post("/login", {"node_id": "x" * 70_000}).status_code == 413
    chunks = (b" " * 8192 for _ in range(20))
    response = httpx.post(f"{anna.url}/login", content=chunks, trust_env=False)
    assert response.status_code == 413


def test_a_body_has_known_fields_alone(anna: RawNode) -> None:
    assert anna.post("/login/challenge", {"node_id": anna.identity.node_id, "more": 1}).status_code == 422
    assert anna.post("/login/challenge", {"node_id": anna.identity.node_id + "\n"}).status_code == 422
    assert anna.post("/login/challenge", {"node_id": "dpc-node-" + "G" * 32}).status_code == 422


def test_nobody_locks_another_node_out_by_naming_it(start_hub: Start, anna: RawNode, eve: RawNode) -> None:
    url = start_hub().url
    victim, eve = RawNode(url, anna.identity), RawNode(url, eve.identity)
    for _ in range(int(LOGINS_PER_NODE[1]) + 10):
        assert victim.post("/login", victim.proof(victim.nonce(), signer=eve.identity)).status_code == 401
    assert victim.token()


def test_a_node_logs_in_so_often_and_no_more(start_hub: Start, anna: RawNode) -> None:
    node = RawNode(start_hub().url, anna.identity)
    answers = [node.post("/login", node.proof(node.nonce())) for _ in range(int(LOGINS_PER_NODE[1]) + 20)]
    refused = [response for response in answers if response.status_code == 429]
    assert refused
    assert int(refused[0].headers["Retry-After"]) >= 1
    assert answers[0].status_code == 200


def test_an_address_asks_so_often_and_no_more(start_hub: Start, anna: RawNode) -> None:
    url = start_hub().url
    with httpx.Client(base_url=url, trust_env=False) as client:
        body = {"node_id": anna.identity.node_id}
        codes = {client.post("/login/challenge", json=body).status_code for _ in range(int(LOGIN_CALLS_PER_ADDRESS[1]))}
        assert codes <= {200, 429}
        for _ in range(1000):
            if (response := client.post("/login/challenge", json=body)).status_code == 429:
                break
        assert response.status_code == 429
        assert client.get("/healthz").status_code == 200
        assert 'dpc_hub_refused_total{what="login"}' in client.get("/metrics").text


def test_a_bucket_gives_what_is_in_it_and_then_so_many_a_second() -> None:
    now = [0.0]
    rate = Rate((2.0, 4.0), lambda: now[0])
    assert [rate.take("a") for _ in range(4)] == [0.0] * 4
    assert rate.take("a") == pytest.approx(0.5)
    assert rate.take("a") == pytest.approx(0.5)  # asking for more costs nothing
    assert rate.take("b") == 0.0
    now[0] += 0.5
    assert rate.take("a") == 0.0
    assert rate.take("a") > 0


def test_an_ipv6_customer_is_one_address() -> None:
    assert address_key("2001:db8::1") == address_key("2001:db8::ffff") != address_key("2001:db8:0:1::1")
    assert address_key("127.0.0.1") == "127.0.0.1"
    assert address_key(None) == ""


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Hub.Lab:8890", ORIGIN),
        ("https://hub.lab:443/", "https://hub.lab"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://[::1]:8890", "http://[::1]:8890"),
    ],
)
def test_an_origin_has_one_spelling(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    ["hub.lab", "ws://hub.lab", "https://", "https://a/b", "https://u@a", "https://a:x", "https://a?b", "https://a b"],
)
def test_what_is_no_origin_is_refused(url: str) -> None:
    with pytest.raises(UriError):
        origin_of(url)


def test_the_secret_is_for_the_owner_alone(hub: RunningHub) -> None:
    assert (hub.folder / "hub.sqlite3").stat().st_mode & 0o077 == 0
    assert (hub.folder / "hub.sqlite3-wal").stat().st_mode & 0o077 == 0


def test_openapi_says_what_the_calls_answer(hub: RunningHub) -> None:
    described = json.loads(httpx.get(f"{hub.url}/openapi.json", trust_env=False).text)
    calls = {(path, method) for path, methods in described["paths"].items() for method in methods}
    assert calls >= {("/login", "post"), ("/me", "put"), ("/me", "delete"), ("/nodes", "get"), ("/healthz", "get")}
    assert {"200", "401", "413", "429", "503"} <= set(described["paths"]["/login"]["post"]["responses"])
    assert "/ws/signal" in described["info"]["description"]
