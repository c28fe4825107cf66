"""Who made a bundle: an Ed25519 signature (RFC 8032) over its manifest, which has a hash of every file.

Keys are PEM files as OpenSSL writes them, the signature 64 bytes as it reads them. Needs the extra `signed`.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from llmemb.errors import BundleError, SettingsError
from llmemb.files import replacing_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGNATURE = "manifest.sig"
SIGNATURE_BYTES = 64
MAX_KEY_BYTES = 64 * 1024


def sign(file: Path, manifest: bytes, private_key: Path) -> None:
    """Write a file with the signature of a manifest.

    Args:
        file: to write.
        manifest: a bundle's, as its file holds it.
        private_key: Ed25519, PEM, not encrypted.

    Raises:
        SettingsError: the key is not such a file.
    """
    key = _private(private_key)
    with replacing_file(file) as aside:
        aside.write_bytes(key.sign(manifest))


def check_signature(file: Path, manifest: bytes, public_key: Path) -> None:
    """Check that a file holds a manifest's signature.

    Args:
        file: which :func:`sign` wrote.
        manifest: as its file holds it.
        public_key: of the private key that must have made it, PEM.

    Raises:
        BundleError: it does not, or the manifest was changed since.
        SettingsError: the key is not such a file.
    """
    key = _public(public_key)
    from cryptography.exceptions import InvalidSignature

    if not file.is_file() or file.is_symlink():
        raise BundleError(f"{file} is missing: the bundle is not signed (`llmemb sign` does it)")
    with file.open("rb") as opened:
        signature = opened.read(SIGNATURE_BYTES + 1)
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        raise BundleError(f"{file}: not a signature of the manifest by {public_key}") from None


def _private(path: Path) -> "Ed25519PrivateKey":
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(
            f"{path} is not an Ed25519 private key in PEM without a password; "
            "`openssl genpkey -algorithm ed25519` makes one"
        )
    return key


def _public(path: Path) -> "Ed25519PublicKey":
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(
            f"{path} is not an Ed25519 public key in PEM; `openssl pkey -pubout` makes it of the private one"
        )
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error


def _need_cryptography() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise SettingsError("signatures need the extra `signed`: pip install 'llmemb[signed]'")
