"""A node's key, certificate and id, and the keys of its peers: bytes in, bytes out.

A node is the hash of its own RSA key (DPTP v1.5 section 1). A certificate only carries that key: its CN, its dates
and its issuer prove nothing and are never trusted.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from dpc_jupyter.errors import HandshakeError, IdentityError

# 2048 is what DPTP v1.5 makes; OpenSSH and browsers accept up to 16384, but verifying such a key costs a host
# milliseconds before the peer has proved anything.
NODE_ID = r"dpc-node-[0-9a-f]{32}"
MIN_KEY_BITS = 2048
MAX_KEY_BITS = 4096
_PSS_SIGN = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.MAX_LENGTH)
_PSS_VERIFY = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.AUTO)


def is_node_id(text: str) -> bool:
    """Whether this is a whole node id."""
    return re.fullmatch(NODE_ID, text) is not None


def short(node_id: str) -> str:
    """Return a node id for people to read, such as ``dpc-node-51d3…e07a``."""
    digits = node_id.removeprefix("dpc-node-")
    return f"dpc-node-{digits[:4]}…{digits[-4:]}" if len(digits) > 8 else node_id


def node_id_of(public_key: rsa.RSAPublicKey) -> str:
    """``dpc-node-`` and 32 hex digits: SHA-256 of the PEM SubjectPublicKeyInfo (DPTP v1.5 section 1)."""
    pem = public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "dpc-node-" + hashlib.sha256(pem).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class PeerKey:
    """A peer's public key, and the node id that it is."""

    node_id: str
    _public_key: rsa.RSAPublicKey = field(repr=False)

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether this key signed `data` (RSA-PSS, MGF1-SHA256, SHA-256, any salt length)."""
        try:
            self._public_key.verify(signature, data, _PSS_VERIFY, hashes.SHA256())
        except InvalidSignature:
            return False
        return True


def _peer_key(certificate: x509.Certificate) -> PeerKey:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise HandshakeError("The peer's certificate does not hold an RSA key; DPTP v1.5 knows no other.")
    if not MIN_KEY_BITS <= key.key_size <= MAX_KEY_BITS or key.public_numbers().e != 65537:
        raise HandshakeError(
            f"The peer's RSA key has {key.key_size} bits or an odd exponent; "
            f"{MIN_KEY_BITS} to {MAX_KEY_BITS} bits and 65537 are accepted."
        )
    node_id = node_id_of(key)
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [node_id]:
        raise HandshakeError(
            f"The peer's certificate names {str(names)[:100]} but its key is {node_id}: it claims to be someone else."
        )
    return PeerKey(node_id, key)


def peer_key_from_der(certificate: bytes) -> PeerKey:
    """Read the key out of a peer's TLS certificate.

    Raises
    ------
    HandshakeError
        It is no certificate, not RSA of an accepted size, or its CN is not the hash of its key.
    """
    try:
        return _peer_key(x509.load_der_x509_certificate(certificate))
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise HandshakeError("The peer's TLS certificate cannot be read.") from error


def peer_key_from_pem(certificate: str) -> PeerKey:
    """Read the key out of the ``cert_pem`` of a HELLO; raises as `peer_key_from_der`."""
    try:
        return _peer_key(x509.load_pem_x509_certificate(certificate.encode()))
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise HandshakeError("The certificate in the peer's HELLO cannot be read.") from error


@dataclass(frozen=True, slots=True)
class Identity:
    """This node's own key and certificate.

    Attributes
    ----------
    node_id : str
    key_pem, cert_pem : bytes
        As kept in ``node.key`` and ``node.crt``.
    cert_der : bytes
        The certificate as TLS shows it; its SHA-256 is the channel binding of a link that we serve.
    """

    node_id: str
    key_pem: bytes = field(repr=False)
    cert_pem: bytes = field(repr=False)
    cert_der: bytes = field(repr=False)
    _key: rsa.RSAPrivateKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """RSA-PSS, MGF1-SHA256, SHA-256, the longest salt (DPTP v1.5 section 1)."""
        return self._key.sign(data, _PSS_SIGN, hashes.SHA256())


def generate() -> Identity:
    """Make a new identity: RSA-2048, self-signed SHA-256, CN = issuer = node id, CA, valid 2020 to 2120.

    The dates are fixed, not counted from now, so that a machine whose clock is years off makes no certificate that
    some TLS stack calls not yet valid; DPTP peers judge the key, not the dates.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    node_id = node_id_of(key.public_key())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    return Identity(node_id, key_pem, certificate.public_bytes(serialization.Encoding.PEM), der, key)


def load(key_pem: bytes, cert_pem: bytes, node_id_text: str) -> Identity:
    """Put an identity together from its three files.

    Raises
    ------
    IdentityError
        A part is damaged, or the three do not belong together; the sentence names the file.
    """
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError("node.key is damaged or is no unencrypted PEM key.") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise IdentityError("node.key does not hold an RSA key.")
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
        peer = _peer_key(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, HandshakeError) as error:
        raise IdentityError("node.crt is damaged or is no certificate of a DPTP node.") from error
    node_id = node_id_of(key.public_key())
    if peer.node_id != node_id:
        raise IdentityError(f"node.crt belongs to {peer.node_id}, but node.key is {node_id}.")
    if node_id_text.strip() != node_id:
        raise IdentityError(f"node.id does not say {node_id}, which is what node.key is.")
    der = certificate.public_bytes(serialization.Encoding.DER)
    return Identity(node_id, key_pem, cert_pem, der, key)
