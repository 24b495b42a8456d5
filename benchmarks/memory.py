"""Memory that six warm tiers take, beyond what one takes: the weights are shared.

    python -m benchmarks.memory

Starts the service twice, once with one tier warm and once with all six, sends the same number of
requests to both (all tiers to the second), and compares the resident memory of the processes.
"""

import argparse
import asyncio
import itertools
import json
import sys
from pathlib import Path

from yarl import URL

from benchmarks.measure import environment
from benchmarks.measure.running import running
from service.load import loops
from service.load.client import Client, open_session
from service.load.outcomes import OK
from service.load.plan import Loop
from service.load.request import EXAMPLES, Request, load_images
from service.tiers import TIERS

ALLOWED_MIB = 300
NUM_REQUESTS = 24
TIMEOUT_S = 60


def main() -> int:
    """Print one JSON document; returns 1 if more than `ALLOWED_MIB` are taken."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    one = resident_mib(("exact",))
    six = resident_mib(TIERS)
    result = {
        "one_tier_mib": round(one),
        "six_tiers_mib": round(six),
        "difference_mib": round(six - one),
        "allowed_mib": ALLOWED_MIB,
        "environment": environment.describe(),
    }
    print(json.dumps(result, indent=1))
    return int(six - one > ALLOWED_MIB)


def resident_mib(tiers: tuple[str, ...]) -> float:
    """Resident memory of a service, in MiB, after it has answered with each of the tiers."""
    with running(RAPID_WARMUP_TIERS=",".join(tiers)) as service:
        asyncio.run(ask(service.url, tiers))
        status = Path(f"/proc/{service.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


async def ask(url: str, tiers: tuple[str, ...]) -> None:
    """Send the example photos, one after the other, to each of the tiers in turn."""
    requests = (
        Request(tier, {"tier": tier}, photo.content, {"Content-Type": photo.media_type})
        for tier, photo in zip(
            itertools.cycle(tiers), itertools.cycle(load_images([EXAMPLES])), strict=True
        )
    )
    loop = Loop(concurrency=1, max_requests=NUM_REQUESTS)
    async with open_session(TIMEOUT_S) as session:
        client = Client(session, URL(url) / "v1/classify", loop)
        await loops.run(client, requests)
    if client.tally[OK] != NUM_REQUESTS:
        raise RuntimeError(f"not all requests were answered: {client.tally}, {client.samples}")


if __name__ == "__main__":
    sys.exit(main())
