"""A signed bundle: whoever has the public key can tell who made it, and that nothing changed since."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from llmemb.bundle import MANIFEST, read_bundle
from llmemb.errors import BundleError, SettingsError
from llmemb.signature import SIGNATURE, sign

Keys = tuple[Path, Path]


@pytest.fixture
def make_keys(tmp_path: Path) -> Callable[[str], Keys]:
    def make(name: str) -> Keys:
        key = Ed25519PrivateKey.generate()
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem"
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        public.write_bytes(key.public_key().public_bytes(pem, form))
        return private, public

    return make


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def sign_bundle(bundle: Path, private: Path) -> None:
    sign(bundle / SIGNATURE, (bundle / MANIFEST).read_bytes(), private)


def test_a_signed_bundle_is_read_with_its_key_and_without(
    bundle: Path, make_keys: Callable[[str], Keys]
) -> None:
    private, public = make_keys("ours")
    sign_bundle(bundle, private)
    assert read_bundle(bundle, public).manifest == read_bundle(bundle).manifest


def test_what_is_not_signed_or_by_another_or_changed_is_refused(
    bundle: Path, make_keys: Callable[[str], Keys]
) -> None:
    private, public = make_keys("ours")
    with pytest.raises(BundleError, match="not signed"):
        read_bundle(bundle, public)
    sign_bundle(bundle, make_keys("theirs")[0])
    with pytest.raises(BundleError, match="not a signature"):
        read_bundle(bundle, public)
    sign_bundle(bundle, private)
    signature = bundle / SIGNATURE
    for changed in (b"", signature.read_bytes()[:-1], signature.read_bytes() + b"\n"):
        signature.write_bytes(changed)
        with pytest.raises(BundleError, match="not a signature"):
            read_bundle(bundle, public)


def test_what_is_no_key_is_refused(bundle: Path, make_keys: Callable[[str], Keys]) -> None:
    private, public = make_keys("ours")
    for wrong in (public, bundle / MANIFEST, bundle / "missing"):
        with pytest.raises(SettingsError, match=wrong.name):
            sign_bundle(bundle, wrong)
    sign_bundle(bundle, private)
    for wrong in (private, bundle / MANIFEST, bundle / "missing"):
        with pytest.raises(SettingsError, match=wrong.name):
            read_bundle(bundle, wrong)


def test_openssl_agrees(bundle: Path, make_keys: Callable[[str], Keys]) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    private, public = make_keys("ours")
    sign_bundle(bundle, private)
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public]
    command += ["-in", bundle / MANIFEST, "-sigfile", bundle / SIGNATURE]
    subprocess.run(command, check=True, capture_output=True)
