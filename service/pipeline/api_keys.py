"""API keys: who may send work, and how many requests at a time."""

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import SettingsError, TooManyRequestsError, UnauthorizedError

SHORTEST_KEY = 16
"""fewest characters of a key"""


class ApiKeys:
    """The known keys, and how many requests each has inside. Used from the event loop only."""

    def __init__(self, keys: dict[str, str], *, max_requests_per_key: int = 0) -> None:
        """Accept these keys.

        Args:
            keys: name -> key; if empty, every client is accepted.
            max_requests_per_key: most requests of one key at a time; 0 for any number.
        """
        self._digests = {name: _digest(key) for name, key in keys.items()}
        self._max_requests = max_requests_per_key
        self._inside: Counter[str] = Counter()

    @property
    def num_keys(self) -> int:
        """How many keys are known."""
        return len(self._digests)

    @contextmanager
    def enter(self, presented: str | None) -> Iterator[str | None]:
        """Hold one of a key's places for as long as the context lasts; yields the key's name.

        Raises:
            UnauthorizedError: a key is needed, and this one is missing or unknown.
            TooManyRequestsError: all places of the key are taken.
        """
        name = self.identify(presented)
        if name is None:
            yield None
            return
        if self._max_requests and self._inside[name] >= self._max_requests:
            raise TooManyRequestsError(
                f"this API key has {self._inside[name]} requests inside, as many as it may"
            )
        self._inside[name] += 1
        try:
            yield name
        finally:
            self._inside[name] -= 1

    def identify(self, presented: str | None) -> str | None:
        """Name of a key; None where no keys are needed.

        All known keys are compared, each in constant time, so that the time reveals no key.

        Raises:
            UnauthorizedError: a key is needed, and this one is missing or unknown.
        """
        if not self._digests:
            return None
        digest = _digest(presented or "")
        found = [
            name for name, known in self._digests.items() if hmac.compare_digest(known, digest)
        ]
        if not found:
            raise UnauthorizedError(
                "an API key is needed: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            )
        return found[0]


def read(path: Path) -> dict[str, str]:
    """Keys by name, from a file with `NAME KEY` in each line; `#` begins a comment.

    Raises:
        SettingsError: the file cannot be read or used. The message holds no key.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeError) as exc:
        raise SettingsError(f"RAPID_API_KEYS_FILE cannot be read: {exc}") from exc
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or len(words[1]) < SHORTEST_KEY or not words[1].isascii():
            raise SettingsError(
                f"RAPID_API_KEYS_FILE, line {number}: `NAME KEY` is needed, "
                f"the key of {SHORTEST_KEY} ASCII characters at least"
            )
        name, key = words
        if name in keys or key in keys.values():
            raise SettingsError(f"RAPID_API_KEYS_FILE, line {number}: a name or key comes twice")
        keys[name] = key
    if not keys:
        raise SettingsError("RAPID_API_KEYS_FILE holds no key")
    return keys


def _digest(key: str) -> bytes:
    # All digests have one length, so that a comparison does not reveal the length of the key.
    return hashlib.sha256(key.encode()).digest()
