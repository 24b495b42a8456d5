"""Memory that six warm tiers take, beyond what one takes: the weights are shared.

    python -m benchmarks.memory

Starts the service twice, once with one tier warm and once with all six, sends the same number of
requests to both (all tiers to the second), and compares the resident memory of the processes.
"""

import json
import sys
from pathlib import Path

import httpx

from benchmarks import environment
from benchmarks.running import running
from service.models.timm_models import BUNDLED_MODELS
from service.tiers import TIERS

ALLOWED_MIB = 300
REQUESTS = 24


def main() -> int:
    """Print one JSON document; returns 1 if more than `ALLOWED_MIB` are taken."""
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
        photos = sorted((BUNDLED_MODELS / "everyday-vit-s14" / "examples").glob("*.jpg"))
        for number in range(REQUESTS):
            photo = photos[number % len(photos)].read_bytes()
            httpx.post(
                f"{service.url}/v1/classify",
                params={"tier": tiers[number % len(tiers)]},
                content=photo,
                headers={"Content-Type": "image/jpeg"},
                timeout=60,
            ).raise_for_status()
        status = Path(f"/proc/{service.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
