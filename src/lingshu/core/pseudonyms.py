"""Keyed hashes as ids: equal ids stay equal, and only the key's owner can find the original.

A plain hash of a hospital number is not a pseudonym: all numbers can be tried. HMAC-SHA256
(RFC 2104) with a secret key can only be tried by the owner of the key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from lingshu.core.errors import InputError

MIN_KEY_BYTES = 16
# 80 bits: among 10^9 ids, two share a hash with a chance of one in a million.
_HEX_DIGITS = 20


def new_key() -> bytes:
    """A random key; without it the hashes of a run cannot be linked to those of another."""
    return secrets.token_bytes(32)


def check_key(key: bytes | None) -> bytes:
    """The given key, or a random one if there is none.

    Raises:
        InputError: a key of less than 16 bytes, which could be guessed.
    """
    if key is None:
        return new_key()
    if len(key) < MIN_KEY_BYTES:
        problem = f"the key for ids has {len(key)} bytes"
        raise InputError(f"{problem}; give at least {MIN_KEY_BYTES} random ones.")
    return key


def pseudonym(key: bytes, kind: str, value: str | bytes) -> str | None:
    """The hash of an id, None for an empty one; ids of different kinds never share a hash."""
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    data = data.strip(b" \0\t\r\n")
    if not data:
        return None
    return hmac.new(key, kind.encode() + b"\0" + data, hashlib.sha256).hexdigest()[:_HEX_DIGITS]


def is_pseudonym(text: str) -> bool:
    """Whether a text has the form of a hash of `pseudonym` and is not a number."""
    is_hex = len(text) == _HEX_DIGITS and set(text) <= set("0123456789abcdef")
    return is_hex and not text.isdecimal()
