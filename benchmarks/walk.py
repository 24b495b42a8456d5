"""The walk of one request through the house: which files and rooms it enters, and how often.

    python -m benchmarks.walk
    PYTHONPATH=. python ../elsewhere/benchmarks/walk.py     # the service of another checkout

One JPEG at tier `balanced` goes through the whole application in this process, on a real event
loop, after a few requests that warm it up. `sys.setprofile` notes every call of a function of
`service` or `rapid_core`, on the event loop and on the threads that decode and compute; a coroutine
that goes on after an `await` counts as called again.

A move from file to file is a call in another file than the call before it on the same thread. An
entry is a call whose caller lies in another file, or outside of the house as the framework does. A
move between rooms is an entry whose caller lies in another folder of `service/`, or outside. The
files directly in `service/` are one room, and all of `rapid_core` is another.
"""

import argparse
import asyncio
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import httpx

import service
from service.app import create_app
from service.settings import Settings

HOUSE = Path(service.__file__).parents[1]
FOLDERS = tuple(f"{HOUSE / name}/" for name in ("service", "rapid_core"))
PHOTO = HOUSE / "service/assets/everyday-vit-s14/examples/owl.jpg"
BUNDLED = "everyday-vit-s14"
NUM_WARM_UP = 3
NUM_PASSES_AFTER = 20
"""of the event loop after the answer: what a request leaves to do belongs to it."""
OUTSIDE = "outside"
APPS = ("service/app.py", "service/api/app.py")


class Event(NamedTuple):
    """A call, or the return from one."""

    thread: int
    is_call: bool
    file: str
    """from the root of the checkout, as `service/tiers.py`"""


@dataclass(frozen=True)
class Walk:
    """What one request did; `loop` means: on the thread of the event loop."""

    num_calls: int
    files: tuple[str, ...]
    num_moves: int
    """from file to file, on all threads"""
    loop_files: tuple[str, ...]
    num_loop_entries: int
    """into a file, from another one or from outside"""
    room_moves: Counter[tuple[str, str]]
    """moves between rooms on the event loop: (from, to) -> how often"""

    @property
    def num_moves_between_rooms(self) -> int:
        """On the event loop, entries from outside included."""
        return self.room_moves.total()

    @property
    def entered_app(self) -> bool:
        """Whether the file that builds the application took part in answering."""
        return any(file in APPS for file in self.files)


class Recorder:
    """Keeps the calls and returns of the house's own functions while it is on."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._is_on = False

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """What `sys.setprofile` calls."""
        if self._is_on and event in ("call", "return"):
            file = frame.f_code.co_filename
            if file.startswith(FOLDERS):
                name = Path(file).relative_to(HOUSE).as_posix()
                self.events.append(Event(threading.get_ident(), event == "call", name))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """On, on this thread and on those that were started under `new_threads`."""
        before = sys.getprofile()
        self._is_on = True
        sys.setprofile(self.profile)
        try:
            yield
        finally:
            self._is_on = False
            sys.setprofile(before)

    @contextmanager
    def new_threads(self) -> Iterator[None]:
        """Threads that start meanwhile take part in every recording."""
        before = threading.getprofile()
        threading.setprofile(self.profile)
        try:
            yield
        finally:
            threading.setprofile(before)


def trace(model: str = BUNDLED, tier: str = "balanced") -> Walk:
    """Send one request through the application and follow it; starts an event loop.

    Args:
        model: bundled, a folder, or a timm name.
        tier: that the request asks for.

    Raises:
        httpx.HTTPStatusError: the request was not answered with 200.
    """
    recorder = Recorder()
    asyncio.run(_follow(recorder, model, tier))
    return summarize(recorder.events, threading.get_ident())


async def _follow(recorder: Recorder, model: str, tier: str) -> None:
    photo = PHOTO.read_bytes()
    with recorder.new_threads():
        app = create_app(Settings(models=(model,), probe_interval_s=0))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://house", timeout=60
            ) as client,
        ):
            request = client.build_request(
                "POST",
                "/v1/classify",
                params={"tier": tier},
                content=photo,
                headers={"Content-Type": "image/jpeg"},
            )
            while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - as a client
                await asyncio.sleep(0.01)
            for _ in range(NUM_WARM_UP):
                (await client.send(request)).raise_for_status()
            with recorder.recording():
                answer = await client.send(request)
                for _ in range(NUM_PASSES_AFTER):
                    await asyncio.sleep(0)
            answer.raise_for_status()


def summarize(events: Sequence[Event], loop: int) -> Walk:
    """Count the moves.

    Args:
        events: in the order in which they happened.
        loop: the thread of the event loop.
    """
    calls = [event for event in events if event.is_call]
    on_loop = [event for event in events if event.thread == loop]
    pairs = list(callers(on_loop))
    rooms = Counter((room(caller), room(file)) for caller, file in pairs)
    return Walk(
        num_calls=len(calls),
        files=tuple(sorted({event.file for event in calls})),
        num_moves=sum(
            num_changes([event.file for event in calls if event.thread == thread])
            for thread in {event.thread for event in calls}
        ),
        loop_files=tuple(sorted({file for _, file in pairs})),
        num_loop_entries=sum(caller != file for caller, file in pairs),
        room_moves=Counter({pair: number for pair, number in rooms.items() if pair[0] != pair[1]}),
    )


def callers(events: Sequence[Event]) -> Iterator[tuple[str, str]]:
    """For each call on one thread: the file of the innermost caller in the house, and its own."""
    stack: list[str] = []
    for event in events:
        if event.is_call:
            yield (stack[-1] if stack else OUTSIDE), event.file
            stack.append(event.file)
        elif stack:  # else: it returns from a call before the recording
            stack.pop()


def num_changes(files: Sequence[str]) -> int:
    """How often a file is followed by another one."""
    return sum(former != latter for former, latter in itertools.pairwise(files))


def room(file: str) -> str:
    """The folder of `service/` that a file lies in, `api/v1/classify.py` in `api`."""
    package, *folders = Path(file).parts[:-1] or (OUTSIDE,)
    return folders[0] if package == "service" and folders else package


def describe(walk: Walk) -> str:
    """The walk in words."""
    lines = [
        f"{walk.num_calls} calls in {len(walk.files)} files, {walk.num_moves} moves from file to "
        "file",
        f"on the event loop: {len(walk.loop_files)} files, entered {walk.num_loop_entries} times; "
        f"{walk.num_moves_between_rooms} moves between rooms",
        f"the file that builds the application was {'' if walk.entered_app else 'not '}entered",
        "",
        *(
            f"{number:4}  {former} -> {latter}"
            for (former, latter), number in walk.room_moves.most_common()
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the walk."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=BUNDLED, help="bundled, a folder, or a timm name")
    parser.add_argument("--tier", default="balanced")
    arguments = parser.parse_args()
    print(describe(trace(arguments.model, arguments.tier)))


if __name__ == "__main__":
    main()
