"""A Dockerfile without a Docker engine: its instructions, its context, its steps in a folder."""

import json
import os
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dockerfile_parse import DockerfileParser  # type: ignore[import-untyped]


class Instruction(NamedTuple):
    """One instruction, its continued lines joined."""

    name: str
    value: str

    @property
    def command(self) -> list[str]:
        """The words of the exec form.

        Raises:
            ValueError: it is the shell form.
        """
        return [str(word) for word in json.loads(self.value)]


def stages(path: Path) -> list[list[Instruction]]:
    """Every stage of a Dockerfile, from its FROM on; what stands before the first is left out."""
    found: list[list[Instruction]] = []
    for entry in DockerfileParser(str(path)).structure:
        name = entry["instruction"].upper()
        if name == "FROM":
            found.append([])
        if found and name != "COMMENT":
            found[-1].append(Instruction(name, entry["value"]))
    return found


def only(stage: list[Instruction], name: str) -> Instruction:
    """The last instruction of that name, which is the one that counts."""
    return [instruction for instruction in stage if instruction.name == name][-1]


def pairs(stage: list[Instruction], name: str) -> dict[str, str]:
    """What the ENV, LABEL or ARG instructions set, as it is written."""
    text = "\n".join(instruction.value for instruction in stage if instruction.name == name)
    return {
        key: quoted or plain
        for key, quoted, plain in re.findall(r'([\w.]+)=(?:"([^"]*)"|(\S*))', text)
    }


def sources(instruction: Instruction) -> tuple[str | None, list[str], str]:
    """The stage (None: the context), the sources and the destination of a COPY."""
    words = instruction.value.split()
    options = dict(word[2:].split("=") for word in words if word.startswith("--"))
    *paths, destination = [word for word in words if not word.startswith("--")]
    return options.get("from"), paths, destination


def is_ignored(path: str, patterns: list[str]) -> bool:
    """Whether a path of the context is left out by the lines of a .dockerignore.

    The last pattern that matches the path or a folder above it decides.
    Source: https://docs.docker.com/build/concepts/context/#dockerignore-files
    """
    ignored = False
    for line in patterns:
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            keeps = pattern.startswith("!")
            if re.fullmatch(_expression(pattern.lstrip("!").strip("/")) + "(/.*)?", path):
                ignored = not keeps
    return ignored


def _expression(pattern: str) -> str:
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[^]]*\]|.", pattern)
    meanings = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        meanings.get(token, token if token[0] == "[" else re.escape(token)) for token in tokens
    )


class Build:
    """Runs the steps of a Dockerfile with a folder in the place of the file system's root.

    Absolute paths in ENV, WORKDIR and COPY become paths in that folder; a RUN, which is executed
    as it stands, may name none.
    """

    def __init__(self, context: Path, root: Path, environment: Mapping[str, str]) -> None:
        """Start from a base image that is this machine with these environment variables."""
        self.context = context
        self.root = root
        self.environment = dict(environment)
        self.folder = root

    def run(self, stage: list[Instruction], arguments: Mapping[str, str]) -> None:
        """Execute all instructions of one stage; `arguments` are those of the build.

        Raises:
            AssertionError: a command failed.
        """
        for instruction in stage:
            match instruction.name:
                case "ARG":
                    name, _, default = instruction.value.partition("=")
                    self.environment[name] = arguments.get(name, default)
                case "ENV":
                    self._set(pairs([instruction], "ENV"))
                case "WORKDIR":
                    self.folder = self._inside(instruction.value)
                    self.folder.mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(instruction)
                case "RUN":
                    self._execute(instruction.value)

    def _inside(self, path: str) -> Path:
        return self.root / path.lstrip("/") if path.startswith("/") else self.folder / path

    def _set(self, variables: Mapping[str, str]) -> None:
        before = dict(self.environment)
        for name, value in variables.items():
            parts = [
                str(self.root) + part if part.startswith("/") else part for part in value.split(":")
            ]
            self.environment[name] = string.Template(":".join(parts)).substitute(before)

    def _copy(self, instruction: Instruction) -> None:
        stage, paths, destination = sources(instruction)
        if stage is not None:
            assert stage == "builder"
            for path in paths:
                source, target = self._inside(path), self._inside(destination)
                if source != target:
                    shutil.copytree(source, target)
            return
        patterns = (self.context / ".dockerignore").read_text().splitlines()

        def ignored(folder: str, names: list[str]) -> list[str]:
            inside = Path(folder).relative_to(self.context)
            return [name for name in names if is_ignored(str(inside / name), patterns)]

        for path in paths:
            source, target = self.context / path, self._inside(destination)
            if source.is_dir():
                shutil.copytree(source, target, ignore=ignored)
            else:
                shutil.copy(source, target)

    def _execute(self, command: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}"


def base_environment() -> dict[str, str]:
    """What a step finds before the Dockerfile has set anything.

    How this machine reaches its package index is kept: pip's variables, proxies, certificates.
    """
    kept = re.compile(
        r"PIP_(?!CONSTRAINT).*|.*_proxy|.*_CERT_.*|REQUESTS_CA_BUNDLE|HOME", re.IGNORECASE
    )
    environment = {name: value for name, value in os.environ.items() if kept.fullmatch(name)}
    return {**environment, "PATH": f"{Path(sys.base_prefix, 'bin')}:/usr/bin:/bin"}
