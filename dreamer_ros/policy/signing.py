"""Signed policies: a robot with a public key plays only policies that the holder of the private key signed.

Ed25519 (RFC 8032). A signature covers the manifest and, through its sha256, every byte of the policy file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from dreamer_ros.errors import InputError, missing_package
from dreamer_ros.policy.manifest import Manifest

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    _MISSING = None
except ModuleNotFoundError as error:  # most robots have no key
    _MISSING = error


def generate_key(path: Path) -> str:
    """Write a new private key (PEM, PKCS #8, readable by its owner only); returns the public key as text.

    Raises:
        InputError: the file exists or cannot be written.
    """
    _need_library()
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InputError(f'key {path}: expected a new file that can be written ({error.strerror})') from error
    with open(descriptor, 'wb') as file:
        file.write(pem)
    return public_key(key)


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file, as `generate_key` or `openssl genpkey -algorithm ed25519` write them.

    Raises:
        InputError: the file cannot be read, or holds no such key.
    """
    _need_library()
    try:
        key = serialization.load_pem_private_key(Path(path).read_bytes(), None)
    except OSError as error:
        raise InputError(f'key {path}: expected a readable file ({error.strerror})') from error
    except (ValueError, TypeError) as error:  # TypeError: it needs a password
        raise InputError(f'key {path}: expected an ed25519 private key without password in PEM ({error})') from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f'key {path}: expected an ed25519 private key, got {type(key).__name__}')
    return key


def public_key(key: Ed25519PrivateKey) -> str:
    """The public key of a private key, for a robot contract: 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def sign(manifest: Manifest, key: Ed25519PrivateKey) -> Manifest:
    """The manifest with a signature."""
    return manifest.model_copy(update={'signature': key.sign(manifest.signed_bytes()).hex()})


def verify(manifest: Manifest, public_key: str) -> None:
    """Check a manifest's signature.

    Args:
        public_key: 64 hexadecimal digits.

    Raises:
        InputError: the manifest is unsigned, altered, or signed with another key.
    """
    _need_library()
    key = Ed25519PublicKey.from_public_bytes(parse_public_key(public_key))
    name = f'policy {manifest.uri} (version {manifest.version})'
    if not manifest.signature:
        raise InputError(f'{name}: expected a signature by the key {public_key}, got none')
    try:
        key.verify(bytes.fromhex(manifest.signature), manifest.signed_bytes())
    except (InvalidSignature, ValueError):
        raise InputError(
            f'{name}: expected a signature by the key {public_key}; this manifest was altered after it '
            'was signed, or signed with another key'
        ) from None


def parse_public_key(text: str) -> bytes:
    """The 32 bytes of a public key.

    Raises:
        InputError: the text is not 64 hexadecimal digits.
    """
    if not re.fullmatch('[0-9a-f]{64}', text):
        raise InputError(f'public key: expected 64 hexadecimal digits, got {text!r}')
    return bytes.fromhex(text)


def _need_library() -> None:
    if _MISSING is not None:
        raise missing_package(_MISSING)
