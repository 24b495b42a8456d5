"""The client: sends requests, and keeps their outcomes."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import aiohttp
from yarl import URL

from service.load.outcomes import KINDS, NOT_SENT, OK, UNREADABLE, Answer, Outcome, explain
from service.load.plan import Loop
from service.load.request import Request

BEHIND_S = 1.0
"""an arrival that the client reaches more than this after the end is not sent."""
KEEP_ALIVE_S = 4.0
"""less than uvicorn's 5 s: the client, not the service, closes an idle connection."""


def open_session(timeout_s: float) -> aiohttp.ClientSession:
    """A session with any number of kept-alive connections; an answer may take `timeout_s`."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    return aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=timeout_s)
    )


class Client:
    """Sends requests to one URL. Its time starts when it is made.

    Args:
        session: the session for all requests.
        url: all requests go there.
        loop: its bounds are kept here.
        read: body of a 200 -> the answer in it. LookupError, TypeError or ValueError means that
            the body holds no answer. None: bodies are not read.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        loop: Loop,
        read: Callable[[bytes], Answer] | None = None,
    ) -> None:
        self.loop = loop
        self.outcomes: list[Outcome] = []
        self.tally: Counter[str] = Counter()
        self.samples: dict[str, str] = {}
        """explanation of the first answer of each unexpected kind"""
        self.send_late_ms: list[float] = []
        self.num_counted = 0
        self.num_outstanding = 0
        self.num_left_out = 0
        self._session = session
        self._url = url
        self._read = read
        self._started_s = time.monotonic()

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_s

    def takes(self, due_s: float) -> bool:
        """Whether the load has room for one more request at that moment; counts it if so."""
        counted = due_s >= self.loop.warmup_s
        if due_s >= self.loop.end_s or (counted and self.num_counted == self.loop.max_requests):
            return False
        self.num_counted += counted
        return True

    async def send(self, request: Request, due_s: float) -> None:
        """Send one request and keep its outcome; latency counts from `due_s`."""
        sent_s = self.now()
        full = self.num_outstanding >= self.loop.most_outstanding
        if full or sent_s > self.loop.end_s + BEHIND_S:
            self._keep(Outcome(request.entry, due_s, sent_s, NOT_SENT))
            return
        if due_s >= self.loop.warmup_s:
            self.send_late_ms.append(1000 * (sent_s - due_s))
        kind, body = await self.exchange(request)
        done_s = self.now()
        answer = None
        if kind == OK and self._read is not None:
            try:
                answer = self._read(body)
            except (LookupError, TypeError, ValueError):
                kind = UNREADABLE
        if kind not in KINDS.values():
            self.samples.setdefault(kind, explain(body))
        self._keep(Outcome(request.entry, due_s, done_s, kind, answer))

    async def exchange(self, request: Request) -> tuple[str, bytes]:
        """The kind of outcome, and the body or the text of the error."""
        self.num_outstanding += 1
        try:
            async with self._session.post(
                self._url,
                params=request.query,
                data=request.content,
                headers=request.headers,
                allow_redirects=False,
            ) as response:
                body = await response.read()
                return KINDS.get(response.status, f"status {response.status}"), body
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            return f"error {type(exc).__name__}", str(exc).encode()
        except asyncio.CancelledError:
            self.num_left_out += 1
            raise
        finally:
            self.num_outstanding -= 1

    def _keep(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.tally[outcome.kind] += 1
