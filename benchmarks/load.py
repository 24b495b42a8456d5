"""Load on a running service: closed loop, or open loop with Poisson arrivals; any mix of tiers.

    python -m benchmarks.load --rate 20 --mix exact=1,balanced=4,budget:150=2 --out load.json

An entry of the mix is a tier, `r:N` (tokens to remove in every block) or `budget:MS` (sent as
`max_latency_ms`), with its weight. In an open loop latency counts from the scheduled arrival, sent
in time or not, so that a slow service cannot slow down the load that would show it (coordinated
omission). Requests of the warm-up are sent but not counted. Only services on this machine.
"""

import argparse
import asyncio
import ipaddress
import itertools
import json
import math
import mimetypes
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import aiohttp
from tqdm import tqdm
from yarl import URL

from benchmarks import environment, load_report
from benchmarks.load_report import KINDS, NOT_SENT, OK, Answer, Outcome, Window
from service.tiers import TIERS

EXAMPLES = Path(__file__).parents[1] / "service/assets/everyday-vit-s14/examples"
PATIENCE_S = 5.0
"""how long after the deadline an answer is still waited for."""
BEHIND_S = 1.0
"""arrivals that the client reaches later than this after the end are not sent."""
KEEP_ALIVE_S = 4.0
"""less than uvicorn's 5 s: the client, not the service, closes an idle connection."""
UNREADABLE = "error UnreadableAnswer"
SAMPLE_BYTES = 300
DEADLINE_HELP = "sent with each request, and the deadline of goodput; default: 1000"
REQUESTS_HELP = "most requests after the warm-up; default: 100000"
OUTSTANDING_HELP = "open loop: beyond it arrivals are counted and not sent; default: 1024"
IMAGES_HELP = "folders and files to send; default: the bundled example photos"
TICK_S = 0.010
TIMER_S = 0.001
"""asyncio's timers count in milliseconds and round up; what remains is lateness."""


class Entry(NamedTuple):
    """One kind of request in the mix."""

    name: str
    query: dict[str, str]
    weight: float


class Image(NamedTuple):
    """The body of a request."""

    name: str
    content: bytes
    media_type: str


class UnfitServiceError(Exception):
    """There is no service, it is not ready, or it cannot be asked for this mix."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send, how, and for how long."""

    url: URL
    concurrency: int | None
    """clients of a closed loop; None: open loop."""
    rate: float | None
    """arrivals per second of an open loop; None: closed loop."""
    max_outstanding: int
    mix: list[Entry]
    images: list[Image]
    deadline_ms: float
    duration_s: float
    warmup_s: float
    max_requests: int
    """after the warm-up."""
    seed: int

    @property
    def end_s(self) -> float:
        """No request is due later; seconds since the start."""
        return self.warmup_s + self.duration_s

    def settings(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "loop": "open" if self.rate else "closed",
            **vars(self),
            "url": str(self.url),
            "mix": [entry._asdict() for entry in self.mix],
            "images": [image.name for image in self.images],
        }


def parse_url(text: str) -> URL:
    """A service on this machine, or ValueError."""
    url = URL(text)
    if url.scheme != "http" or url.host is None:
        raise ValueError(f"{text!r} is not a URL like http://127.0.0.1:8000")
    try:
        loopback = url.host == "localhost" or ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(
            f"{url.host} is not this machine; this is a load generator and sends to 127.0.0.1, "
            "[::1] or localhost only, so that it can hurt nobody else"
        )
    return url.origin()


def parse_mix(text: str, min_tier: str | None = None) -> list[Entry]:
    """The entries of `NAME[=WEIGHT],...`; `min_tier` goes with those that are tiers.

    Raises:
        ValueError: says which entry is wrong, and what is allowed.
    """
    entries: dict[str, Entry] = {}
    for part in text.split(","):
        name, equals, weight_text = (word.strip() for word in part.partition("="))
        query = parse_entry(name)
        if "tier" in query and min_tier is not None:
            query["min_tier"] = min_tier
        weight = parse_number(weight_text, f"the weight of {name}") if equals else 1.0
        if name in entries:
            raise ValueError(f"{name} is in the mix twice; add up its weights")
        entries[name] = Entry(name, query, weight)
    return list(entries.values())


def parse_entry(name: str) -> dict[str, str]:
    """What an entry of the mix asks the service for."""
    kind, colon, value = name.partition(":")
    if kind == "r" and colon:
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"{name}: r is a number of tokens, 0 or more, as in r:14")
        return {"r": value}
    if kind == "budget" and colon:
        parse_number(value, f"{name}: the budget in ms")
        return {"max_latency_ms": value}
    if name not in TIERS:
        raise ValueError(
            f"{name!r} is no entry; allowed: {', '.join(TIERS)}, r:N (tokens per block), "
            "budget:MS (max_latency_ms)"
        )
    return {"tier": name}


def parse_number(text: str, what: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{what} must be a number above 0, not {text!r}")
    return value


def load_images(paths: list[Path]) -> list[Image]:
    """The image files of these folders and files, or ValueError."""
    found = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            media_type = mimetypes.guess_type(file.name)[0] or ""
            if media_type.startswith("image/"):
                found.append(Image(file.name, file.read_bytes(), media_type))
    if not found:
        raise ValueError(f"no image in {', '.join(map(str, paths))}")
    return found


def arrivals(rate: float, random: Random) -> Iterator[float]:
    """Moments of a Poisson process, without end: independent gaps, 1 / rate seconds on average."""
    return itertools.accumulate(random.expovariate(rate) for _ in itertools.count())


def read_answer(body: bytes) -> Answer:
    """What the JSON of a 200 says; KeyError, TypeError or ValueError if it is another."""
    said = json.loads(body)
    timing, choice = said["timing_ms"], said.get("choice")
    return Answer(
        tier=said["tier"],
        batch_size=int(said["batch_size"]),
        queue_ms=float(timing["queue"]),
        inference_ms=float(timing["inference"]),
        reason=choice["reason"] if choice else None,
    )


def explain(body: bytes) -> str:
    """What a problem document says; of any other body, how it begins."""
    try:
        return str(json.loads(body)["detail"])
    except (LookupError, TypeError, ValueError):
        return body[:SAMPLE_BYTES].decode(errors="replace")


class Client:
    """Sends requests, and keeps what became of them."""

    def __init__(self, session: aiohttp.ClientSession, plan: Plan) -> None:
        """Time starts now."""
        self.outcomes: list[Outcome] = []
        self.tally: Counter[str] = Counter()
        self.samples: dict[str, str] = {}
        self.send_late_ms: list[float] = []
        self.num_counted = 0
        self.num_outstanding = 0
        self.num_left_out = 0
        self._session = session
        self._plan = plan
        self._random = Random(plan.seed)
        self._weights = list(itertools.accumulate(entry.weight for entry in plan.mix))
        self._started = time.monotonic()

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def takes(self, due_s: float) -> bool:
        """Whether one more request is wanted at that moment; counts it if so."""
        counted = due_s >= self._plan.warmup_s
        if due_s >= self._plan.end_s or (counted and self.num_counted == self._plan.max_requests):
            return False
        self.num_counted += counted
        return True

    async def send(self, due_s: float) -> None:
        """Send one request and keep its outcome."""
        entry = self._random.choices(self._plan.mix, cum_weights=self._weights)[0]
        image = self._random.choice(self._plan.images)
        sent_s = self.now()
        full = self.num_outstanding >= self._plan.max_outstanding
        if full or sent_s > self._plan.end_s + BEHIND_S:
            self._keep(Outcome(entry.name, due_s, sent_s, NOT_SENT))
            return
        if due_s >= self._plan.warmup_s:
            self.send_late_ms.append(1000 * (sent_s - due_s))
        kind, body = await self._exchange(entry, image)
        done_s = self.now()
        answer = None
        if kind == OK:
            try:
                answer = read_answer(body)
            except (KeyError, TypeError, ValueError):
                kind = UNREADABLE
        if kind not in KINDS.values():
            self.samples.setdefault(kind, explain(body))
        self._keep(Outcome(entry.name, due_s, done_s, kind, answer))

    async def _exchange(self, entry: Entry, image: Image) -> tuple[str, bytes]:
        """The kind of outcome, and the body; or what the error says of itself."""
        self.num_outstanding += 1
        try:
            async with self._session.post(
                self._plan.url / "v1/classify",
                params={**entry.query, "deadline_ms": str(self._plan.deadline_ms)},
                data=image.content,
                headers={"Content-Type": image.media_type},
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


class Watch:
    """How punctual and how busy the client itself is in the measured time."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.late_ms: list[float] = []
        self.cpu_share = 0.0

    async def run(self, client: Client, plan: Plan) -> None:
        """Look every 10 ms."""
        await asyncio.sleep(plan.warmup_s - client.now())
        cpu_s, start_s = time.process_time(), client.now()
        while client.now() < plan.end_s:
            before_s = client.now()
            await asyncio.sleep(TICK_S)
            late_s = client.now() - before_s - TICK_S - TIMER_S
            self.late_ms.append(1000 * max(0.0, late_s))
            self.cpu_share = (time.process_time() - cpu_s) / (client.now() - start_s)


async def closed_loop(client: Client, plan: Plan) -> None:
    """Each of the clients sends its next request when the former is answered."""

    async def one_client() -> None:
        while client.takes(due_s := client.now()):
            await client.send(due_s)

    async with asyncio.TaskGroup() as clients:
        for _ in range(plan.concurrency or 0):
            clients.create_task(one_client())


async def open_loop(client: Client, plan: Plan) -> None:
    """Requests leave when they are due, whatever became of the ones before."""
    async with asyncio.TaskGroup() as requests:
        for due_s in arrivals(plan.rate or 0.0, Random(plan.seed)):
            if not client.takes(due_s):
                return
            await asyncio.sleep(max(0.0, due_s - client.now()))
            requests.create_task(client.send(due_s))


async def show_progress(client: Client, plan: Plan) -> None:
    """A bar over the time of the load, on a terminal; and how the requests end."""
    form = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s{postfix}"
    with tqdm(total=plan.end_s, bar_format=form, leave=False, disable=None) as bar:
        while True:
            bar.n = min(client.now(), plan.end_s)
            tally = ", ".join(f"{kind} {count}" for kind, count in client.tally.most_common())
            bar.set_postfix_str(tally or "no answer yet")
            await asyncio.sleep(0.2)


async def check_service(session: aiohttp.ClientSession, url: URL, mix: list[Entry]) -> str:
    """The name of the model that will answer.

    Raises:
        UnfitServiceError: nobody answers, the service is not ready, or `r` is beyond its model.
    """
    try:
        async with session.get(url / "readyz", allow_redirects=False) as response:
            if response.status != 200:
                said = explain(await response.read())
                raise UnfitServiceError(f"{url} is not ready: {response.status} {said}")
        async with session.get(url / "v1/models", allow_redirects=False) as response:
            model = json.loads(await response.read())["models"][0]
            name, max_r = str(model["name"]), int(model["max_r"])
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise UnfitServiceError(
            f"nobody answers at {url} ({exc}); `make serve` starts a service"
        ) from exc
    except (LookupError, TypeError, ValueError) as exc:
        raise UnfitServiceError(f"{url}/v1/models does not answer as this service does") from exc
    for entry in mix:
        if int(entry.query.get("r", 0)) > max_r:
            raise UnfitServiceError(f"{entry.name}: r of {name} is at most {max_r}")
    return name


async def measure(plan: Plan) -> dict[str, Any]:
    """Run the load; the report, ready for JSON. Ctrl-C ends the load and not the report."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    timeout = aiohttp.ClientTimeout(total=plan.deadline_ms / 1000 + PATIENCE_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        model = await check_service(session, plan.url, plan.mix)
        client, watch = Client(session, plan), Watch()
        generate = open_loop if plan.rate else closed_loop
        load = asyncio.create_task(generate(client, plan))
        others = [
            asyncio.create_task(watch.run(client, plan)),
            asyncio.create_task(show_progress(client, plan)),
        ]
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, load.cancel)
        try:
            await asyncio.wait([load])
            stopped_s = client.now()
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
            for task in (load, *others):
                task.cancel()
            ends = await asyncio.gather(load, *others, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end
    return build_report(plan, model, client, watch, stopped_s if load.cancelled() else None)


def measured(plan: Plan, client: Client, stopped_s: float | None) -> Window:
    """The measured time: the planned one, unless Ctrl-C or the last request ended it earlier."""
    end_s = plan.end_s
    if stopped_s is not None:
        end_s = min(end_s, stopped_s)
    elif client.num_counted == plan.max_requests:
        last_s = [item.due_s if plan.rate else item.done_s for item in client.outcomes]
        end_s = min(end_s, max(last_s))
    return Window(plan.warmup_s, max(plan.warmup_s, end_s))


def build_report(
    plan: Plan, model: str, client: Client, watch: Watch, stopped_s: float | None
) -> dict[str, Any]:
    """All figures; `stopped_s` is when Ctrl-C ended the load."""
    window = measured(plan, client, stopped_s)
    names = [entry.name for entry in plan.mix]
    totals = load_report.figures(client.outcomes, window, plan.deadline_ms)
    send_late_ms = client.send_late_ms if plan.rate else []
    warnings = load_report.warnings(
        loop_late_ms=watch.late_ms,
        send_late_ms=send_late_ms,
        cpu_share=watch.cpu_share,
        totals=totals,
    )
    if stopped_s is not None:
        warnings.append(f"stopped by Ctrl-C; {client.num_left_out} requests in flight left out")
    return {
        "settings": plan.settings(),
        "model": model,
        "measured_s": round(window.end_s - window.start_s, 3),
        "all": totals,
        "entries": load_report.by_entry(client.outcomes, names, window, plan.deadline_ms),
        "samples": client.samples,
        "client": {
            "loop_late_ms": load_report.spread(watch.late_ms),
            "send_late_ms": load_report.spread(send_late_ms),
            "cpu_share": round(watch.cpu_share, 3),
            "num_cores_shared_with_service": os.cpu_count(),
        },
        "warnings": warnings,
    }


def parse(argv: list[str] | None) -> tuple[Plan, Path | None]:
    """The plan, and the file for the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    loop = parser.add_mutually_exclusive_group(required=True)
    loop.add_argument("--concurrency", type=within(1, 1024, int), help="closed loop: clients")
    loop.add_argument("--rate", type=within(0.01, 10_000, float), help="open loop: arrivals per s")
    add("--mix", default="balanced", help="NAME[=WEIGHT],...; default: %(default)s")
    add("--min-tier", choices=TIERS, help="sent with the entries that are tiers")
    add("--deadline-ms", type=within(1e-3, 600_000, float), default=1000.0, help=DEADLINE_HELP)
    duration, warmup = within(0.1, 600, float), within(0, 60, float)
    add("--duration", dest="duration_s", type=duration, default=30.0, help="seconds; default: 30")
    add("--warmup", dest="warmup_s", type=warmup, default=3.0, help="seconds before; default: 3")
    most = within(1, 1_000_000, int)
    add("--requests", dest="max_requests", type=most, default=100_000, help=REQUESTS_HELP)
    add("--max-outstanding", type=within(1, 16_384, int), default=1024, help=OUTSTANDING_HELP)
    add("--images", type=Path, nargs="+", default=[EXAMPLES], help=IMAGES_HELP)
    add("--seed", type=int, default=0, help="of arrivals, entries and images; default: 0")
    add("--out", type=Path, help="file for the report in JSON")
    chosen = vars(parser.parse_args(argv))
    out, min_tier = chosen.pop("out"), chosen.pop("min_tier")
    try:
        if out is not None and not out.parent.is_dir():
            raise ValueError(f"there is no folder {out.parent}")
        chosen["url"] = parse_url(chosen["url"])
        chosen["mix"] = parse_mix(chosen["mix"], min_tier)
        chosen["images"] = load_images(chosen["images"])
    except ValueError as exc:
        parser.error(str(exc))
    if chosen["concurrency"]:
        chosen["max_outstanding"] = chosen["concurrency"]
    return Plan(**chosen), out


def within(low: float, high: float, kind: Callable[[str], float]) -> Callable[[str], float]:
    """Reads a number of these bounds."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not within {low:g} ... {high:g}")
        return value

    return convert


def main(argv: list[str] | None = None) -> int:
    """Returns 1 if no request was answered 200."""
    plan, out = parse(argv)
    try:
        report = asyncio.run(measure(plan))
    except UnfitServiceError as exc:
        print(exc, file=sys.stderr)
        return 1
    return publish(report, out)


def publish(report: dict[str, Any], out: Path | None) -> int:
    """JSON to the file, table to stdout, warnings to stderr; 1 if no request was answered 200."""
    environment.write(out, report)
    print(load_report.text(report), flush=True)
    for warning in report["warnings"]:
        print(f"WARNING: {warning}", file=sys.stderr)
    return int(OK not in report["all"]["outcomes"])


if __name__ == "__main__":
    sys.exit(main())
