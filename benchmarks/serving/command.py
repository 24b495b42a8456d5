"""This service against the same model behind LitServe, Ray Serve, BentoML and mosec.

    python -m benchmarks.serving --setup                      # only make the peers' environments
    python -m benchmarks.serving --out serving.json --png serving.png
    python -m benchmarks.serving --quick                      # some minutes, and rough

Every server gets the same pictures from the same client, in closed loops of 1, 4 and 16 clients
and in open loops at 50, 80 and 150 % of what this server answered to 16 clients. The peers run the
dense model with this project's own decoding and transform (benchmarks/serving/peers), batches of at
most 8 and a wait of at most 5 ms; each lives in an environment of its own, with pinned versions.
Each runs one copy of the model on all cores, once in float32 and once in bfloat16; `--workers 1 2`
also measures two copies that share them.

Two cores cannot hold several servers at once: some work even while nobody asks (Ray does), and
stopping those with SIGSTOP upsets their own watchdogs. So only one server runs at a time, each is
started, checked, warmed up, measured and ended in every round, and the order changes from round to
round. A ratio is the median of the rounds' ratios; percentiles are of all rounds' requests
together. Beside the servers, two limits take their turn: the bare model in a loop, and decoding
alone. The weights of a timm name are random from a fixed seed: they do not change the time.
"""

import argparse
import itertools
import json
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import environment
from benchmarks.measure.arguments import number, whole
from benchmarks.measure.models import save_random
from benchmarks.serving import plot, report
from benchmarks.serving.peers import servers, venvs
from benchmarks.serving.peers.venvs import PEERS, Peer, PeerUnavailableError
from benchmarks.serving.plan import PRECISIONS, SERVICES, peer_name
from benchmarks.serving.rounds import Run, Server, Settings, measure
from service.load.request import EXAMPLES, load_images
from service.models.timm_models import folder_of

DEFAULT_MODEL = "everyday-vit-s14"
WORKERS_HELP = "copies of the model in each peer, sharing the cores; several: each is measured"
MODEL_HELP = "bundled, a folder, or a timm name (with random weights); default: %(default)s"


def main(argv: list[str] | None = None) -> int:
    """Returns 1 if a target was missed, or with --setup if a peer cannot be installed."""
    signal.signal(signal.SIGTERM, leave)
    arguments = parse(argv)
    run = Run([], [], {}, {})
    pythons = installed(arguments, run)
    if arguments.setup:
        print(json.dumps({"unavailable": run.unavailable}))
        return int(bool(run.unavailable))
    settings = Settings(
        str(model_folder(arguments.model)),
        arguments.rounds,
        arguments.quick,
        arguments.open_s,
        arguments.deadline_ms,
    )
    try:
        measure(all_servers(arguments, pythons, settings.model), settings, run)
    except KeyboardInterrupt:
        print("stopped; here is what there is", file=sys.stderr)
    return publish(arguments, settings, run, pythons)


def leave(*_: object) -> None:
    """End on SIGTERM, through all that ends servers, and undisturbed by a second one."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = [peer.folder for peer in PEERS]
    add("--peers", nargs="*", choices=names, default=names, help="default: all")
    add("--workers", nargs="+", type=whole(1, 64), default=[1], help=WORKERS_HELP)
    add("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="of the peers")
    add("--model", default=DEFAULT_MODEL, help=MODEL_HELP)
    add("--rounds", type=whole(1, 100), help="default: 5; 2 with --quick")
    add("--open-s", type=number(1, 300), default=10.0, help="of each open loop; default: 10")
    deadline = number(1, 60_000)
    add("--deadline-ms", type=deadline, default=1000.0, help="of goodput; default: 1000")
    add("--quick", action="store_true", help="fewer rounds, requests and loads; no open loop")
    add("--setup", action="store_true", help="make the peers' environments and end")
    add("--venvs", type=Path, default=venvs.default_folder(), help="default: %(default)s")
    add("--out", type=Path, help="file for the JSON")
    add("--png", type=Path, help="file for the picture")
    arguments = parser.parse_args(argv)
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    for file in (arguments.out, arguments.png):
        if file is not None and not file.parent.is_dir():
            parser.error(f"there is no folder {file.parent}")
    return arguments


def wanted(arguments: argparse.Namespace) -> list[Peer]:
    """The peers that were asked for."""
    return [peer for peer in PEERS if peer.folder in arguments.peers]


def installed(arguments: argparse.Namespace, run: Run) -> dict[str, Path]:
    """The Python of each peer that can be installed, by its name."""
    pythons = {}
    for peer in wanted(arguments):
        try:
            pythons[peer.name] = venvs.set_up(peer, arguments.venvs)
        except PeerUnavailableError as exc:
            run.unavailable[peer.name] = str(exc)
            print(exc, file=sys.stderr)
    return pythons


def model_folder(spec: str) -> Path:
    """Where every server finds the model; for a timm name, a folder is made with random weights."""
    folder = folder_of(spec)
    if folder is None:
        folder = venvs.default_folder().parent / "models" / spec
        save_random(spec, folder)
    return folder.resolve()


def all_servers(
    arguments: argparse.Namespace, pythons: dict[str, Path], model: str
) -> list[Server]:
    """This service, by default and otherwise, then every peer with every number of workers."""
    pictures = load_images([EXAMPLES])
    found = [
        Server(name, partial(servers.our_service, model, pictures, **settings))
        for name, settings in SERVICES.items()
    ]
    for peer in wanted(arguments):
        if peer.name in pythons:
            for precision, workers in itertools.product(arguments.precisions, arguments.workers):
                name = peer_name(peer.name, precision, workers)
                setup = servers.PeerSetup(workers, precision)
                start = partial(
                    servers.peer_server, peer, pythons[peer.name], model, setup, pictures
                )
                found.append(Server(name, start))
    return found


def publish(
    arguments: argparse.Namespace, settings: Settings, run: Run, pythons: dict[str, Path]
) -> int:
    """JSON and PNG to their files, tables to stdout; 1 if a target was missed."""
    found = report.build(run, settings.deadline_ms)
    document: dict[str, Any] = {
        "settings": {**settings._asdict(), "model": Path(settings.model).name},
        "peers": {
            peer.name: venvs.versions(peer, pythons[peer.name])
            for peer in PEERS
            if peer.name in pythons
        },
        **found,
    }
    environment.write(arguments.out, document)
    if arguments.png is not None and found["rows"]:
        plot.draw(found, arguments.png, Path(settings.model).name)
    print(report.text(found), flush=True)
    return int(any(target["met"] is False for target in found["targets"]))
