"""The entrance: a request inside holds one place of its API key, and its bytes are counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from service.pipeline.admission import Admission
from service.pipeline.api_keys import ApiKeys


class Entered(NamedTuple):
    """What a request gets when it is let in."""

    api_key: str | None
    """name of its key"""
    arrived: Callable[[int], None]
    """to call with the number of bytes whenever some of its body have arrived"""


@dataclass(frozen=True)
class Entrance:
    """Checks API keys, and limits the work inside."""

    api_keys: ApiKeys
    admission: Admission

    @contextmanager
    def enter(self, presented_key: str | None, *, announced_bytes: int) -> Iterator[Entered]:
        """Let a request in for as long as the context lasts.

        Args:
            presented_key: the key that the client sent, if any.
            announced_bytes: length of its body; 0 if the client does not announce it.

        Raises:
            UnauthorizedError: a key is needed, and this one is missing or unknown.
            TooManyRequestsError: all places of the key are taken.
            OverloadedError: there is no room. `arrived` raises it as well.
        """
        with (
            self.api_keys.enter(presented_key) as name,
            self.admission.receive(announced_bytes=announced_bytes, owner=name) as arrived,
        ):
            yield Entered(name, arrived)
