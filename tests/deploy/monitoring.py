"""The real Prometheus, with the rules of this repository."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from tests.waiting import PATIENCE_S, eventually, free_port

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = [FOLDER / "alerts.yml", FOLDER / "recording.yml"]
HOW = "needs Debian's package `prometheus` (apt-get install prometheus), which has {} in it"

# Any: what YAML and JSON hold.
Document = dict[str, Any]


class Series(NamedTuple):
    """One of the results of a query."""

    labels: dict[str, str]
    value: float


def program(name: str) -> str:
    """Where one of Prometheus' programs is; without it, the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(HOW.format(name))
    return found


def promtool(*arguments: object) -> str:
    """What promtool prints; a failure of it is one of the test."""
    command = [program("promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> dict[str, Document]:
    """The alerting rules by name."""
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def compared(expression: str) -> str:
    """What an alert compares, 1 where it would fire and 0 elsewhere.

    alerts.yml promises spaces around every comparison, and around nothing else.
    """
    return re.sub(r"(?<=\s)(==|!=|>=|<=|>|<)(?=\s)", r"\1 bool", expression)


class Prometheus:
    """The process. It scrapes and evaluates every second, where people do so every 15."""

    def __init__(self, folder: Path, targets: Sequence[str]) -> None:
        """Start it.

        Args:
            folder: an empty one, for its data.
            targets: host:port of what to scrape.
        """
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in RULES],
            "scrape_configs": [{"job_name": "rapid", "static_configs": [{"targets": [*targets]}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S)
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def wait_until_scraping(self) -> None:
        """Return when every target has been seen."""
        self.eventually(lambda: bool(self.query("up")) and min(s.value for s in self.query("up")))

    def query(self, expression: str) -> list[Series]:
        """The series of an expression, now; none while Prometheus is starting."""
        try:
            response = self._client.get("/api/v1/query", params={"query": expression})
        except httpx.TransportError:
            assert self._process.poll() is None, self._printed()
            return []
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:  # it listens, and reads its data
            return []
        document = response.json()
        assert document["status"] == "success", f"{expression}: {document}"
        assert not document.get("warnings"), f"{expression}: {document}"
        return [
            Series(series["metric"], float(series["value"][1]))
            for series in document["data"]["result"]
        ]

    def rules(self) -> list[Document]:
        """What has become of each rule."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> set[tuple[str, str]]:
        """The firing alerts: name and instance, which is empty where there is none."""
        found = self.query('ALERTS{alertstate="firing"}')
        return {(s.labels["alertname"], s.labels.get("instance", "")) for s in found}

    @staticmethod
    def eventually(holds: Callable[[], object]) -> None:
        """Wait for it."""
        eventually(holds, pause_s=0.2)

    def stop(self) -> None:
        """End it, and see that it has not complained."""
        self._client.close()
        self._process.terminate()
        self._process.wait(timeout=PATIENCE_S)
        printed = self._printed()
        assert "level=error" not in printed, printed

    def _printed(self) -> str:
        with self._output:
            self._output.seek(0)
            return self._output.read()
