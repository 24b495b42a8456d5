"""The example photos, through the real server: the answers a newcomer sees first."""

from pathlib import Path

import httpx
import pytest

from tests.conftest import Server
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(("tier", "num_right"), [("exact", 12), ("balanced", 11)])
def test_the_example_photos_are_recognised(
    server: Server, examples: list[Path], tier: str, num_right: int
) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        found = {
            path.stem.replace("-", " "): client.post(
                "/v1/classify", content=path.read_bytes(), params={"tier": tier, "top_k": 1}
            ).json()["predictions"][0]["label"]
            for path in examples
        }
    wrong = {name: label for name, label in found.items() if name != label}
    assert len(found) == 12
    assert len(found) - len(wrong) >= num_right, wrong
