"""API keys: reads them from a file and finds the key of a request. The server keeps only their hashes."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from octavo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ApiKey:
    """name: for logs. weight: its share of the engine when other keys have requests waiting.

    salt: separates its cached prefixes from those of other keys.
    """

    name: str
    digest: bytes
    weight: float = 1.0

    @property
    def salt(self) -> str:
        return "key:" + self.digest.hex()


ANONYMOUS = ApiKey("-", b"")


def make(key: str, name: str | None = None, weight: float = 1.0) -> ApiKey:
    """Makes an ApiKey. Raises ConfigError for an empty key."""
    if not key.strip():
        raise ConfigError("an API key is empty")
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return ApiKey(name or f"key-{digest.hex()[:6]}", digest, weight)


def read(path: Path) -> list[ApiKey]:
    """Reads a key file: one key per line, `KEY [NAME [WEIGHT]]`; # begins a comment. Raises ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read API keys from {path}: {error}") from error
    rows = [(number, line.partition("#")[0].split()) for number, line in enumerate(lines, 1)]
    keys = [_parse(f"{path}, line {number}", fields) for number, fields in rows if fields]
    if not keys:
        raise ConfigError(f"{path} has no API key: write one per line, KEY [NAME [WEIGHT]]")
    return keys


def _parse(where: str, fields: list[str]) -> ApiKey:
    try:
        weight = float(fields[2]) if len(fields) > 2 else 1.0
    except ValueError:
        weight = 0.0
    if len(fields) > 3 or not 0 < weight <= 1e6:
        raise ConfigError(f"{where}: must be KEY [NAME [WEIGHT]], with a weight above 0")
    return make(fields[0], fields[1] if len(fields) > 1 else None, weight)


def find(keys: tuple[ApiKey, ...], given: bytes) -> ApiKey | None:
    """Finds the key that a client sent. Compares all hashes, so that the time does not depend on the key."""
    digest, found = hashlib.sha256(given).digest(), None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found
