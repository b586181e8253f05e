"""The key that a trainer shares with its robots: its policies carry a proof of it, and its files are read with it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text, user_path

VARIABLE = 'DREAMER_ROS_KEY'  # the path of its file, in the environment of trainers, robots and file servers
NAME = 'key'  # of its file in the run directory


class RunKey:
    """A shared secret.

    Args:
        path: its file.

    Raises:
        InputError: the file cannot be read, or holds no key.
    """

    def __init__(self, path: Path):
        text = read_text(path).strip()
        if not re.fullmatch('[0-9a-f]{64}', text):
            raise InputError(f'{path}: expected a key of 64 hexadecimal digits')
        self.path = path
        self._secret = bytes.fromhex(text)

    @property
    def token(self) -> str:
        """What a file server asks for. It does not reveal the key."""
        return self.proof(b'files')

    def proof(self, content: bytes) -> str:
        """HMAC-SHA256 in hexadecimal digits, which only those can make that have the key."""
        return hmac.new(self._secret, content, hashlib.sha256).hexdigest()

    def proves(self, content: bytes, proof: str) -> bool:
        """Whether a proof was made of this content with this key."""
        return hmac.compare_digest(self.proof(content).encode(), proof.encode())


def given_key() -> RunKey | None:
    """The key that the environment names.

    Raises:
        InputError: there is no key in that file.
    """
    path = os.environ.get(VARIABLE, '')
    return RunKey(user_path(path)) if path else None


def key_of(folder: Path) -> Path:
    """The file of a run directory's own key, which is made if it is missing; nobody else may read it."""
    path = folder / NAME
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, 'w', encoding='ascii') as file:
            file.write(secrets.token_hex(32) + '\n')
    return path
