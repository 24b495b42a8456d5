"""The entrance: a request that comes in holds a place of its key, and counts with its bytes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from service.pipeline.admission import Admission
from service.pipeline.api_keys import ApiKeys


class Entered(NamedTuple):
    """What a request gets that was let in."""

    api_key: str | None
    """name of its key"""
    arrived: Callable[[int], None]
    """to be called with the number of bytes whenever some of its body have arrived"""


@dataclass(frozen=True)
class Entrance:
    """Who may come in, and how much may be inside."""

    api_keys: ApiKeys
    admission: Admission

    @contextmanager
    def enter(self, presented_key: str | None, *, announced_bytes: int) -> Iterator[Entered]:
        """Let a request in for as long as the context lasts.

        Args:
            presented_key: that the client sent, if any.
            announced_bytes: of its body; 0 if the client does not say.

        Raises:
            UnauthorizedError: a key is needed, and this is none.
            TooManyRequestsError: all places of the key are taken.
            OverloadedError: there is no room; also from `arrived`.
        """
        with (
            self.api_keys.enter(presented_key) as name,
            self.admission.receive(announced_bytes=announced_bytes) as arrived,
        ):
            yield Entered(name, arrived)
