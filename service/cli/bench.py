"""`rapid bench`: send load to a running service and say what comes back."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn
from typer import Argument, Option

from service.cli import options, terminal
from service.load import bounds
from service.tiers import Tier

if TYPE_CHECKING:
    from service.load.measure import Live
    from service.load.plan import Plan

DEFAULT_CONCURRENCY = 4


def within(read: Callable[[str], float]) -> Callable[[str], float]:
    """A parser of typer that says which numbers are allowed."""

    def parse(text: str) -> float:
        with _naming_what_is_wrong():
            return read(text)

    return parse


Url = Annotated[str, Argument(help="The service.")]
Rate = Annotated[
    Any,
    Option(
        parser=within(bounds.RATE.number),
        metavar="<number>",
        help="Open loop: Poisson arrivals per second, whatever became of the requests before.",
    ),
]
Concurrency = Annotated[
    Any,
    Option(
        parser=within(bounds.CONCURRENCY.whole),
        metavar="<n>",
        help="Closed loop: clients, each of which waits for its answer.",
        show_default=f"{DEFAULT_CONCURRENCY} without --rate",
    ),
]
Mix = Annotated[
    str,
    Option(
        metavar="<name=weight,...>",
        help="What is asked for, and how often: a tier, r:N (tokens removed per block) or "
        "budget:MS (max_latency_ms).",
    ),
]
MinTier = Annotated[Tier | None, Option(help="Sent with the entries of the mix that are tiers.")]
Deadline = Annotated[
    Any,
    Option(
        parser=within(bounds.DEADLINE_MS.number),
        metavar="<ms>",
        help="Sent with each request. Goodput counts the answers that come in time.",
    ),
]
Duration = Annotated[
    Any,
    Option(parser=within(bounds.DURATION_S.number), metavar="<s>", help="Seconds to measure."),
]
Warmup = Annotated[
    Any,
    Option(
        parser=within(bounds.WARMUP_S.number),
        metavar="<s>",
        help="Seconds before, whose requests do not count.",
    ),
]
Requests = Annotated[
    Any,
    Option(parser=within(bounds.REQUESTS.whole), metavar="<n>", help="At most, after the warm-up."),
]
Outstanding = Annotated[
    Any,
    Option(
        parser=within(bounds.OUTSTANDING.whole),
        metavar="<n>",
        help="Open loop: arrivals beyond so many unanswered requests are counted, not sent.",
    ),
]
Images = Annotated[
    list[Path] | None,
    Option(
        help="Folder or image file to send; may be given several times.",
        show_default="the bundled photos",
    ),
]
Seed = Annotated[int, Option(help="Seed of arrivals, entries and images.")]
Out = Annotated[
    Path | None,
    Option(dir_okay=False, callback=options.new_file, help="Write the report there as JSON."),
]
AllowRemote = Annotated[
    bool,
    Option(
        "--allow-remote",
        help="Send load to another machine, too. Do that to a service of your own only: load can "
        "make it slow or expensive for everybody who uses it.",
    ),
]


def bench(
    url: Url = "http://127.0.0.1:8000",
    *,
    rate: Rate = None,
    concurrency: Concurrency = None,
    mix: Mix = "balanced",
    min_tier: MinTier = None,
    deadline_ms: Deadline = "1000",
    duration: Duration = "30",
    warmup: Warmup = "3",
    requests: Requests = "100000",
    max_outstanding: Outstanding = "1024",
    images: Images = None,
    seed: Seed = 0,
    out: Out = None,
    allow_remote: AllowRemote = False,
) -> None:
    """Send load to a running service and say what comes back.

    In an open loop, latency counts from the moment a request was due.

    Ctrl-C ends the load, and the report says what there is.

    Examples:
      rapid bench http://127.0.0.1:8000 --mix exact=1,balanced=4
      rapid bench --rate 20 --mix balanced,budget:150=2 --out load.json
    """
    _require_aiohttp()
    from service.load.address import parse_url
    from service.load.mix import parse_mix
    from service.load.plan import Loop, Plan
    from service.load.request import EXAMPLES, load_images

    with _naming_what_is_wrong():
        loop = Loop(
            rate=rate,
            concurrency=concurrency or (None if rate else DEFAULT_CONCURRENCY),
            max_outstanding=max_outstanding,
            warmup_s=warmup,
            duration_s=duration,
            max_requests=requests,
            seed=seed,
        )
        plan = Plan(
            url=parse_url(url, allow_remote=allow_remote),
            loop=loop,
            mix=parse_mix(mix, min_tier),
            images=load_images(images or [EXAMPLES]),
            deadline_ms=deadline_ms,
        )
    _run(plan, out)


def _require_aiohttp() -> None:
    if find_spec("aiohttp") is None:
        terminal.error("rapid bench needs aiohttp: pip install aiohttp")
        raise typer.Exit(terminal.MISUSED)


@contextmanager
def _naming_what_is_wrong() -> Iterator[None]:
    """A ValueError becomes the message of a wrong command line."""
    try:
        yield
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


def _run(plan: "Plan", out: Path | None) -> None:
    """Send the load, write the report."""
    from service.load.check import UnfitServiceError
    from service.load.measure import measure
    from service.load.outcomes import OK

    try:
        with _progress() as show:
            report = asyncio.run(measure(plan, show))
    except UnfitServiceError as exc:
        terminal.error(str(exc))
        raise typer.Exit(terminal.FAILED) from exc
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n")
    _publish(report)
    if OK not in report["all"]["outcomes"]:
        raise typer.Exit(terminal.FAILED)


def _publish(report: dict[str, Any]) -> None:
    """Sentences and tables to standard output, warnings to standard error."""
    from service.load import words

    for line in words.summary(report):
        terminal.show(line)
    terminal.show("")
    terminal.show_table(words.RATES, words.rates(report))
    terminal.show("")
    terminal.show_table(words.LATENCIES, words.latencies(report))
    for line in words.LEGEND:
        terminal.show(line)
    if choices := words.choices(report):
        terminal.show("")
        for line in ("answered by:", *choices):
            terminal.show(line)
    for kind, sample in report["samples"].items():
        terminal.show(f"{kind}: for example: {sample}")
    for warning in report["warnings"]:
        terminal.note(f"WARNING: {warning}")


@contextmanager
def _progress() -> Iterator[Callable[["Live"], None]]:
    """A bar over the time of the load, with the numbers of the last seconds, on a terminal."""
    from service.load.words import number

    columns = (
        BarColumn(bar_width=12),
        "{task.completed:.0f}/{task.total:.0f} s",
        TextColumn("{task.fields[numbers]}", markup=False),
    )
    with terminal.progress_of(*columns, auto_refresh=False) as progress:
        task = progress.add_task("load", total=1.0, numbers="")

        def show(live: "Live") -> None:
            numbers = (
                f"{number(live.ok_per_s)}/s answered  p50 {number(live.p50_ms)} ms  "
                f"p99 {number(live.p99_ms)} ms  refused {live.num_refused}"
                f"  other {live.num_others}"
            )
            progress.update(
                task, completed=live.now_s, total=live.end_s, numbers=numbers, refresh=True
            )

        yield show
