"""Encrypts texts that clients store for the gateway but cannot read, with AES-256-GCM."""

import base64
import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# NIST SP 800-38D, section 8.2: with random nonces of this length, one key is safe for 2^32 texts.
_NONCE_BYTES = 12


class Sealer:
    """Seals texts with a key of 32 bytes. `about` is authenticated with a text, but is not part of it."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, text: str, about: str) -> str:
        """The encrypted text, safe for URLs; different at every call."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, text.encode(), about.encode())
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, sealed: str, about: str) -> str:
        """The text. Raises ValueError, or cryptography's InvalidTag when another key or `about` sealed it."""
        content = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
        return self._cipher.decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], about.encode()).decode()
