"""Texts that clients carry for the gateway and cannot read: encrypted and authenticated with AES-256-GCM."""

import base64
import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# NIST SP 800-38D, section 8.2: with random nonces of this length, one key is good for 2^32 texts.
_NONCE_BYTES = 12


class Sealer:
    """Seals texts under one key of 32 bytes. `about` is bound to a text without being part of it."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, text: str, about: str) -> str:
        """The text in a form for URLs; another one every time."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, text.encode(), about.encode())
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, sealed: str, about: str) -> str:
        """The text. Raises ValueError or cryptography's InvalidTag when it was not sealed with this key."""
        content = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
        return self._cipher.decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], about.encode()).decode()
