"""A node is the hash of its key: computed a second way, and everything that claims otherwise."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import dptp_v15_peer as v15
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID
from protocol.ends import as_v15

from dpc_jupyter import identity
from dpc_jupyter.errors import HandshakeError, IdentityError
from dpc_jupyter.identity import Identity, peer_key_from_der, peer_key_from_pem

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Make = Callable[[], Key]
PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
NO_PASSWORD = serialization.NoEncryption()


def certificate(key: Key, *names: str) -> x509.Certificate:
    """A self-signed certificate that says what it is told to say."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in names])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(dt.datetime(2020, 1, 1)).not_valid_after(dt.datetime(2120, 1, 1))
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def openssl(*arguments: str, given: bytes) -> bytes:
    return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True, timeout=60).stdout


def test_a_node_id_is_what_openssl_and_sha256_say_it_is(host_id: Identity) -> None:
    spki = openssl("rsa", "-pubout", given=host_id.key_pem)
    assert spki.startswith(b"-----BEGIN PUBLIC KEY-----\n") and spki.endswith(b"-----END PUBLIC KEY-----\n")
    assert b"\r" not in spki
    assert host_id.node_id == "dpc-node-" + hashlib.sha256(spki).hexdigest()[:32]


def test_a_peers_id_is_computed_from_its_certificate_in_either_form(host_id: Identity) -> None:
    spki = openssl("x509", "-pubkey", "-noout", given=host_id.cert_pem)
    node_id = "dpc-node-" + hashlib.sha256(spki).hexdigest()[:32]
    assert peer_key_from_der(host_id.cert_der).node_id == node_id
    assert peer_key_from_pem(host_id.cert_pem.decode()).node_id == node_id


def test_a_fixed_key_has_a_fixed_id() -> None:
    key = serialization.load_pem_public_key(
        Path(__file__).with_name("protocol").joinpath("golden", "key.pem").read_bytes()
    )
    assert isinstance(key, rsa.RSAPublicKey)
    assert identity.node_id_of(key) == "dpc-node-815123832d4ad748c3839d2e69c0c685"


def test_a_new_identity_is_what_dptp_describes(host_id: Identity) -> None:
    found = x509.load_pem_x509_certificate(host_id.cert_pem)
    key = found.public_key()
    assert isinstance(key, rsa.RSAPublicKey) and key.key_size == 2048 and key.public_numbers().e == 65537
    assert found.subject == found.issuer
    assert found.subject.rfc4514_string() == f"CN={host_id.node_id}"
    assert isinstance(found.signature_hash_algorithm, hashes.SHA256)
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    found.verify_directly_issued_by(found)
    assert found.public_bytes(serialization.Encoding.DER) == host_id.cert_der


def test_a_new_certificate_is_valid_on_a_clock_ten_years_off(host_id: Identity) -> None:
    found = x509.load_pem_x509_certificate(host_id.cert_pem)
    now = dt.datetime.now(dt.UTC)
    for years in (-5, 0, 10):
        assert found.not_valid_before_utc < now + dt.timedelta(days=365 * years) < found.not_valid_after_utc


def test_no_two_identities_are_the_same(identities: tuple[Identity, ...]) -> None:
    assert len({one.node_id for one in identities}) == len(identities)


def test_a_private_key_is_not_shown(host_id: Identity) -> None:
    assert "PRIVATE" not in repr(host_id) and "BEGIN" not in repr(host_id)


def test_an_expired_certificate_still_names_its_key(guest_id: Identity) -> None:
    key = as_v15(guest_id).key
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, guest_id.node_id)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(dt.datetime(2001, 1, 1)).not_valid_after(dt.datetime(2002, 1, 1))
    old = builder.sign(key, hashes.SHA256())
    assert peer_key_from_der(old.public_bytes(serialization.Encoding.DER)).node_id == guest_id.node_id


def refused_as_peer(found: x509.Certificate, match: str) -> None:
    with pytest.raises(HandshakeError, match=match):
        peer_key_from_der(found.public_bytes(serialization.Encoding.DER))
    with pytest.raises(HandshakeError, match=match):
        peer_key_from_pem(found.public_bytes(PEM).decode())


def test_a_cn_that_is_not_the_keys_hash_is_refused(host_id: Identity, evil_id: Identity) -> None:
    liar = v15.make_identity(common_name=host_id.node_id, key=as_v15(evil_id).key)
    refused_as_peer(x509.load_pem_x509_certificate(liar.cert_pem.encode()), "claims to be someone else")


def test_a_certificate_without_or_with_two_names_is_refused(host_id: Identity, evil_id: Identity) -> None:
    key = as_v15(evil_id).key
    for names in (
        (),
        (evil_id.node_id, host_id.node_id),
        (host_id.node_id, evil_id.node_id),
        (evil_id.node_id + "\0",),
    ):
        refused_as_peer(certificate(key, *names), "claims to be someone else")


def test_a_cn_that_is_no_text_is_refused(host_id: Identity) -> None:
    """A BIT STRING where a name belongs: cryptography reads names late, and raises TypeError."""
    utf8_string, bit_string = b"\x0c\x29dpc-node-", b"\x03\x29dpc-node-"
    assert host_id.cert_der.count(utf8_string) == 2, "issuer and subject"
    der = host_id.cert_der.replace(utf8_string, bit_string)
    with pytest.raises(HandshakeError, match="cannot be read"):
        peer_key_from_der(der)
    with pytest.raises(HandshakeError, match="cannot be read"):
        peer_key_from_pem(ssl.DER_cert_to_PEM_cert(der))


def test_a_hostile_cn_is_not_repeated_raw_nor_at_length(evil_id: Identity) -> None:
    found = certificate(as_v15(evil_id).key, "\x1b]0;owned\x07\u202e")
    with pytest.raises(HandshakeError) as caught:
        peer_key_from_der(found.public_bytes(serialization.Encoding.DER))
    assert not set(str(caught.value)) & set("\x1b\x07\u202e")
    assert len(str(caught.value)) < 1000


def test_many_long_names_do_not_make_a_long_sentence(evil_id: Identity) -> None:
    found = certificate(as_v15(evil_id).key, *[f"{n:064}" for n in range(100)])
    with pytest.raises(HandshakeError) as caught:
        peer_key_from_der(found.public_bytes(serialization.Encoding.DER))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("make", [lambda: ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate])
def test_a_key_that_is_not_rsa_is_refused(make: Make) -> None:
    refused_as_peer(certificate(make(), "dpc-node-" + "0" * 32), "does not hold an RSA key")


def rsa_named(bits: int, exponent: int = 65537) -> x509.Certificate:
    key = rsa.generate_private_key(public_exponent=exponent, key_size=bits)
    return certificate(key, identity.node_id_of(key.public_key()))


def test_a_1024_bit_key_is_refused() -> None:
    refused_as_peer(rsa_named(1024), "1024 bits")


def test_an_8192_bit_key_is_refused(evil_id: Identity) -> None:
    """Its certificate is signed by a small key: making a real one takes seconds, and no signature is looked at."""
    key = rsa.RSAPublicNumbers(65537, (1 << 8191) | 1).public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.node_id_of(key))])
    builder = x509.CertificateBuilder(name, name, key, 1)
    builder = builder.not_valid_before(dt.datetime(2020, 1, 1)).not_valid_after(dt.datetime(2120, 1, 1))
    refused_as_peer(builder.sign(as_v15(evil_id).key, hashes.SHA256()), "8192 bits")


def test_a_key_with_exponent_3_is_refused() -> None:
    refused_as_peer(rsa_named(2048, exponent=3), "odd exponent")


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_keys_of_usual_sizes_are_accepted(bits: int, evil_id: Identity) -> None:
    key = rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) | 1).public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.node_id_of(key))])
    builder = x509.CertificateBuilder(name, name, key, 1)
    builder = builder.not_valid_before(dt.datetime(2020, 1, 1)).not_valid_after(dt.datetime(2120, 1, 1))
    found = builder.sign(as_v15(evil_id).key, hashes.SHA256())
    assert peer_key_from_pem(found.public_bytes(PEM).decode()).node_id == identity.node_id_of(key)


BAD_PEM = {
    "nothing": "",
    "text": "hello",
    "empty block": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "no end": "-----BEGIN CERTIFICATE-----\nMIIB",
    "not base64": "-----BEGIN CERTIFICATE-----\n****\n-----END CERTIFICATE-----\n",
    "not a certificate": "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
    "a lone surrogate": "\ud800",
    "nul": "\0" * 100,
}


@pytest.mark.parametrize("pem", BAD_PEM.values(), ids=BAD_PEM)
def test_a_pem_that_is_no_certificate_is_refused(pem: str) -> None:
    with pytest.raises(HandshakeError, match="cannot be read"):
        peer_key_from_pem(pem)


def test_a_cut_certificate_is_refused(host_id: Identity) -> None:
    for length in range(0, len(host_id.cert_der), 7):
        with pytest.raises(HandshakeError):
            peer_key_from_der(host_id.cert_der[:length])
    with pytest.raises(HandshakeError):
        peer_key_from_der(host_id.cert_der + b"\0")


def test_a_private_key_in_place_of_a_certificate_is_refused(host_id: Identity) -> None:
    with pytest.raises(HandshakeError):
        peer_key_from_pem(host_id.key_pem.decode())


# Signatures.


def test_a_signature_is_verified_by_openssl_as_pss(host_id: Identity, tmp_path: Path) -> None:
    key, signature, data = tmp_path / "key.pem", tmp_path / "signature", tmp_path / "data"
    key.write_bytes(openssl("x509", "-pubkey", "-noout", given=host_id.cert_pem))
    signature.write_bytes(host_id.sign(b"what is signed"))
    data.write_bytes(b"what is signed")
    said = openssl(
        *("dgst", "-sha256", "-verify", str(key), "-signature", str(signature), "-sigopt", "rsa_padding_mode:pss"),
        *("-sigopt", "rsa_mgf1_md:sha256", "-sigopt", "rsa_pss_saltlen:222", str(data)),
        given=b"",
    )
    assert b"Verified OK" in said


@pytest.mark.parametrize("salt", [padding.PSS.MAX_LENGTH, padding.PSS.DIGEST_LENGTH, 0, 20])
def test_a_signature_of_any_salt_length_verifies(host_id: Identity, salt: int) -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    signature = as_v15(host_id).key.sign(b"data", pss, hashes.SHA256())
    assert peer_key_from_der(host_id.cert_der).verify(signature, b"data")


def test_a_signature_over_other_data_by_another_key_or_scheme_does_not_verify(
    host_id: Identity, evil_id: Identity
) -> None:
    key = peer_key_from_der(host_id.cert_der)
    private = as_v15(host_id).key
    good = host_id.sign(b"data")
    sha1 = padding.PSS(padding.MGF1(hashes.SHA1()), padding.PSS.MAX_LENGTH)
    assert key.verify(good, b"data")
    assert not key.verify(good, b"date")
    assert not key.verify(evil_id.sign(b"data"), b"data")
    assert not key.verify(private.sign(b"data", padding.PKCS1v15(), hashes.SHA256()), b"data")
    assert not key.verify(private.sign(b"data", sha1, hashes.SHA256()), b"data")
    assert not key.verify(good[:-1] + bytes([good[-1] ^ 1]), b"data")
    for senseless in (b"", b"\0" * 256, b"\xff" * 256, b"x" * 255, b"x" * 257, b"x" * 10_000):
        assert not key.verify(senseless, b"data")


def test_no_two_signatures_are_the_same(host_id: Identity) -> None:
    assert host_id.sign(b"data") != host_id.sign(b"data")


# The three files.


def test_the_three_files_give_the_identity_back(host_id: Identity) -> None:
    again = identity.load(host_id.key_pem, host_id.cert_pem, host_id.node_id + "\n")
    assert (again.node_id, again.cert_pem, again.cert_der) == (host_id.node_id, host_id.cert_pem, host_id.cert_der)
    assert peer_key_from_der(host_id.cert_der).verify(again.sign(b"data"), b"data")


@pytest.mark.parametrize(
    "damage", [b"", b"hello", b"\xff" * 40, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_is_named(host_id: Identity, damage: bytes) -> None:
    with pytest.raises(IdentityError, match=r"node\.key"):
        identity.load(damage, host_id.cert_pem, host_id.node_id)


def test_a_cut_key_is_named(host_id: Identity) -> None:
    with pytest.raises(IdentityError, match=r"node\.key"):
        identity.load(host_id.key_pem[:-200], host_id.cert_pem, host_id.node_id)


def test_an_encrypted_key_is_named(host_id: Identity) -> None:
    sealed = as_v15(host_id).key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"secret"))
    with pytest.raises(IdentityError, match=r"node\.key .* unencrypted"):
        identity.load(sealed, host_id.cert_pem, host_id.node_id)


def test_an_ec_key_file_is_named(host_id: Identity) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, NO_PASSWORD)
    with pytest.raises(IdentityError, match=r"node\.key does not hold an RSA key"):
        identity.load(pem, host_id.cert_pem, host_id.node_id)


@pytest.mark.parametrize(
    "damage", [b"", b"hello", b"\xff" * 40, *(pem.encode("utf-8", "replace") for pem in BAD_PEM.values())]
)
def test_a_damaged_certificate_file_is_named(host_id: Identity, damage: bytes) -> None:
    with pytest.raises(IdentityError, match=r"node\.crt"):
        identity.load(host_id.key_pem, damage, host_id.node_id)


def test_a_certificate_file_of_another_node_is_named(host_id: Identity, evil_id: Identity) -> None:
    with pytest.raises(IdentityError, match=rf"node\.crt belongs to {evil_id.node_id}"):
        identity.load(host_id.key_pem, evil_id.cert_pem, host_id.node_id)


def test_a_certificate_file_that_lies_about_its_cn_is_named(host_id: Identity, evil_id: Identity) -> None:
    liar = v15.make_identity(common_name=evil_id.node_id, key=as_v15(host_id).key)
    with pytest.raises(IdentityError, match=r"node\.crt"):
        identity.load(host_id.key_pem, liar.cert_pem.encode(), host_id.node_id)


@pytest.mark.parametrize("text", ["", "dpc-node-", "dpc-node-" + "0" * 32, "hello"])
def test_an_id_file_that_says_something_else_is_named(host_id: Identity, text: str) -> None:
    with pytest.raises(IdentityError, match=r"node\.id"):
        identity.load(host_id.key_pem, host_id.cert_pem, text)


def test_a_weak_key_of_our_own_is_refused() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    own = certificate(key, identity.node_id_of(key.public_key()))
    with pytest.raises(IdentityError):
        identity.load(key.private_bytes(PEM, PKCS8, NO_PASSWORD), own.public_bytes(PEM), "")


def test_the_errors_do_not_show_the_key(host_id: Identity, evil_id: Identity) -> None:
    body = b"".join(host_id.key_pem.splitlines()[1:-1])
    assert base64.b64decode(body)
    with pytest.raises(IdentityError) as caught:
        identity.load(host_id.key_pem, evil_id.cert_pem, host_id.node_id)
    assert body[:20].decode() not in str(caught.value)
