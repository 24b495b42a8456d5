"""`make audit`: whether an advisory is known for one of the pinned packages.

pip-audit looks each of them up, at PyPI or, where that gives no answer, at OSV. A mirror of PyPI
may answer and have no advisories, so an old package that has several is looked up as well: where
none is found, the rest of the answer says nothing. Where nobody can be asked, the last line begins
with SKIPPED and the exit status is 0: no network is no defect of a change.

`python -m tests.audit --floors` looks up the lowest versions that `pyproject.toml` allows instead.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PINNED = ROOT / "constraints.txt"
SUMMARY = "Whether an advisory is known for one of the pinned packages."
KNOWN_BAD = "flask==0.5"
"""every source has advisories for it, and nothing here installs it"""
ACCEPTED = {
    "CVE-2026-65918": "in torchvision.io, which is not called: Pillow decodes every picture",
}
"""advisories that a pinned package may have, each with the reason"""
PIP_AUDIT = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip"]
PIP_AUDIT += ["--progress-spinner=off", "--format=json"]
SOURCES = {"PyPI": ["--vulnerability-service=pypi"], "OSV": ["--vulnerability-service=osv"]}

Sources = Mapping[str, list[str]]
"""names, and pip-audit's options for each; the first that answers is believed"""
# Any: what JSON holds.
Document = dict[str, Any]


class NoAnswerError(Exception):
    """A source could not be asked, or has no advisories; the message is the reason."""


def floors(project: Document) -> list[str]:
    """The lowest version of each package that `pyproject.toml` allows, as requirements."""
    tables = [project["dependencies"], *project["optional-dependencies"].values()]
    found = {
        re.match(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", line) for table in tables for line in table
    }
    return sorted({f"{floor[1]}=={floor[2]}" for floor in found if floor})


def ask(requirements: Sequence[str], options: Sequence[str]) -> list[Document]:
    """Look packages up.

    Args:
        requirements: exact ones, each package once.
        options: pip-audit's, which say where.

    Returns:
        what pip-audit found, a document for each package.

    Raises:
        NoAnswerError: there was no answer, or one that knows of no advisory.
        SystemExit: the requirements cannot be read.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join([*requirements, KNOWN_BAD]))
        file.flush()
        command = [*PIP_AUDIT, "--requirement", file.name]
        readable = subprocess.run([*command, "--dry-run"], capture_output=True, text=True)
        if readable.returncode:
            raise SystemExit(readable.stderr)
        done = subprocess.run([*command, *options], check=False, capture_output=True, text=True)
    try:
        packages: list[Document] = json.loads(done.stdout)["dependencies"]
    except ValueError as exc:
        raise NoAnswerError(done.stderr.strip().rpartition("\n")[2]) from exc
    bad = KNOWN_BAD.partition("==")[0]
    if not any(package["name"] == bad and package.get("vulns") for package in packages):
        raise NoAnswerError(f"it has no advisory for {KNOWN_BAD}, so it has none at all")
    return [package for package in packages if package["name"] != bad]


def first_answer(requirements: Sequence[str], sources: Sources) -> tuple[str, list[Document]]:
    """The name of the first source that answers, and its answer.

    Raises:
        NoAnswerError: none does.
    """
    reasons = []
    for name, options in sources.items():
        try:
            return name, ask(requirements, options)
        except NoAnswerError as exc:
            reasons.append(f"{name}: {exc}")
    raise NoAnswerError("\n".join(reasons))


def lines(packages: Sequence[Document]) -> Iterator[tuple[bool, str]]:
    """What is to be said of each package: whether that is a complaint, and the words."""
    for package in packages:
        if "skip_reason" in package:
            yield False, f"not looked up: {package['skip_reason']}"
        for advisory in package.get("vulns", []):
            mended = ", ".join(advisory["fix_versions"]) or "no version"
            words = f"{package['name']} {package['version']}: {advisory['id']}, mended in {mended}"
            names = {advisory["id"], *advisory["aliases"]}
            reasons = [reason for name, reason in ACCEPTED.items() if name in names]
            yield not reasons, "; accepted: ".join([words, *reasons])


def audit(requirements: Sequence[str], sources: Sources) -> tuple[int, str]:
    """Look packages up; returns the exit status, 1 where there is a complaint, and what to say."""
    try:
        name, packages = first_answer(requirements, sources)
    except NoAnswerError as exc:
        return 0, f"{exc}\nSKIPPED: nobody could be asked for advisories, so nothing was checked"
    said = list(lines(packages))
    num_complaints = sum(is_complaint for is_complaint, _ in said)
    end = f"{name}: {num_complaints} advisories for {len(packages)} packages"
    return int(num_complaints > 0), "\n".join([*(words for _, words in said), end])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=SUMMARY)
    parser.add_argument("--floors", action="store_true", help="the lowest allowed versions")
    parser.add_argument("--requirement", type=Path, default=PINNED, help="a file of exact ones")
    parser.add_argument("--osv-url", help="ask there, as OSV is asked, and nowhere else")
    options = parser.parse_args(arguments)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = options.requirement.read_text().splitlines()
    sources = SOURCES
    if options.osv_url:
        sources = {options.osv_url: [*SOURCES["OSV"], "--osv-url", options.osv_url]}
    status, said = audit(floors(project) if options.floors else pinned, sources)
    sys.stdout.write(f"{said}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
