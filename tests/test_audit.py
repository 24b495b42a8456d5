"""`make audit`: what it says where an advisory is known, where none is, where nobody answers."""

import json
import re
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import audit

PROJECT = tomllib.loads((audit.ROOT / "pyproject.toml").read_text())["project"]
OF_FLASK = ("flask", "0.5", "PYSEC-2019-179", "1.0")
OF_PILLOW = ("pillow", "9.0.0", "PYSEC-2022-168", "9.0.1")
OF_TORCHVISION = ("torchvision", "0.28.0", "PYSEC-2026-1", "0.29.0")
ALIASES = {"PYSEC-2026-1": ["CVE-2026-65918"]}

Advisory = tuple[str, str, str, str]
"""package, version, name, and where it is mended"""


@contextmanager
def osv(advisories: Sequence[Advisory]) -> Iterator[str]:
    """A server that answers as OSV does: its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = (query["package"]["name"], query["version"])
            found = [advisory for advisory in advisories if advisory[:2] == asked]
            body = json.dumps({"vulns": [document(*one) for one in found]} if found else {})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def document(package: str, _: str, name: str, mended: str) -> dict[str, object]:
    """An advisory in the schema of OSV."""
    events = [{"introduced": "0"}, {"fixed": mended}]
    affected = {
        "package": {"name": package, "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
    }
    aliases = ALIASES.get(name, [])
    return {"id": name, "aliases": aliases, "summary": "harm", "affected": [affected]}


def run(folder: Path, url: str, *requirements: str) -> tuple[int, list[str]]:
    """What the command says of some packages: its exit status, and the lines that it prints."""
    file = folder / "requirements.txt"
    file.write_text("\n".join(requirements))
    command = [sys.executable, "-m", "tests.audit", "--requirement", str(file), "--osv-url", url]
    done = subprocess.run(command, capture_output=True, text=True, cwd=audit.ROOT)
    return done.returncode, done.stdout.splitlines() or [done.stderr]


def test_where_no_advisory_is_known_all_is_well(tmp_path: Path) -> None:
    with osv([OF_FLASK, OF_PILLOW]) as url:
        found = run(tmp_path, url, "pillow==13.0.0", "torch==2.13.0")
    assert found == (0, [f"{url}: 0 advisories for 2 packages"])


def test_an_advisory_fails_it_and_an_accepted_one_is_said(tmp_path: Path) -> None:
    with osv([OF_FLASK, OF_PILLOW, OF_TORCHVISION]) as url:
        status, lines = run(tmp_path, url, "pillow==9.0.0", "torchvision==0.28.0")
    assert status == 1
    assert sorted(lines)[1:] == [
        "pillow 9.0.0: PYSEC-2022-168, mended in 9.0.1",
        "torchvision 0.28.0: PYSEC-2026-1, mended in 0.29.0; accepted: "
        + audit.ACCEPTED["CVE-2026-65918"],
    ]
    assert sorted(lines)[0] == f"{url}: 1 advisories for 2 packages"


def test_where_nobody_listens_nothing_was_checked_and_that_is_said(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        status, lines = run(tmp_path, url, "pillow==9.0.0")
    assert status == 0
    assert lines[-1].startswith("SKIPPED: ")
    assert "refused" in lines[0]


def test_a_source_without_any_advisory_is_not_believed(tmp_path: Path) -> None:
    with osv([]) as url:
        status, lines = run(tmp_path, url, "pillow==9.0.0")
    assert status == 0
    assert lines[-1].startswith("SKIPPED: ")
    assert "it has no advisory for flask==0.5" in lines[0]


def test_a_list_that_cannot_be_read_fails_it(tmp_path: Path) -> None:
    status, lines = run(tmp_path, "http://127.0.0.1:1/", "pillow>=9")
    assert status == 1
    assert "pillow" in lines[0]


def test_the_second_source_is_asked_where_the_first_gives_no_answer() -> None:
    with osv([]) as empty, osv([OF_FLASK, OF_PILLOW]) as whole:
        options = {
            name: [*audit.SOURCES["OSV"], f"--osv-url={url}"]
            for name, url in (("empty", empty), ("whole", whole))
        }
        status, said = audit.audit(["pillow==9.0.0"], options)
    assert (status, said.splitlines()[-1]) == (1, "whole: 1 advisories for 1 packages")


def test_make_check_asks_for_advisories() -> None:
    makefile = (audit.ROOT / "Makefile").read_text()
    assert re.search(r"^check:.*\baudit\b", makefile, re.MULTILINE)
    assert re.search(r"^audit:.*\n\t\$\(BIN\)/python -m tests\.audit$", makefile, re.MULTILINE)


def test_every_package_has_a_floor_and_every_pin_stands_on_it() -> None:
    pins = dict(line.split("==") for line in audit.PINNED.read_text().splitlines() if "==" in line)
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    for table in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        for line in table:
            requirement = Requirement(line)
            floors = [one for one in requirement.specifier if one.operator == ">="]
            assert floors, line
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, line
    lowest = audit.floors(PROJECT)
    assert len({line.partition("==")[0] for line in lowest}) == len(lowest) > 20
    assert "pillow==13.0" in lowest
