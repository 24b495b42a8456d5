"""The chart through the real Helm, and every document against its published schema."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kserve  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import yaml  # type: ignore[import-untyped]
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from kubernetes import client as kubernetes

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "rapid"
KSERVE = ROOT / "deploy" / "kserve"
RELEASE = "demo"
NAMESPACE = "prod"
Document = dict[str, Any]

# In a process of its own: Helm's Go runtime has signal handlers and threads that tests do without.
HELM = """
import json, os, sys, helm_python
path, release, namespace = sys.argv[1:]
values = json.load(sys.stdin)
if not release:
    answer = helm_python.lint(path, values, strict=True)
else:
    with helm_python.Chart.load(path) as chart:
        answer = chart.render(values, name=release, namespace=namespace)
json.dump(answer, sys.stdout)
sys.stdout.flush()
os._exit(0)  # the end of Python's interpreter would have to wait for Go's threads
"""


class HelmRefusedError(Exception):
    """Helm would not render; the message is its own."""


@cache
def _helm(values: str, release: str) -> Document:
    command = [sys.executable, "-c", HELM, str(CHART), release, NAMESPACE]
    done = subprocess.run(
        command, input=values, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    if done.returncode:
        raise HelmRefusedError(done.stderr)
    answer: Document = json.loads(done.stdout)
    return answer


def lint(values: Document) -> Document:
    """What `helm lint --strict` says."""
    return _helm(json.dumps(values), "")


def texts(values: Document, release: str = RELEASE) -> dict[str, str]:
    """What each template becomes, by its file's name.

    Raises:
        HelmRefusedError: the values are not allowed.
    """
    rendered = _helm(json.dumps(values), release)
    return {Path(path).name: text for path, text in rendered.items()}


def render(values: Document, release: str = RELEASE) -> dict[str, Document]:
    """The documents that an installation would apply, by kind; there is at most one of each."""
    documents = [
        document
        for name, text in texts(values, release).items()
        if name != "NOTES.txt"
        for document in yaml.safe_load_all(text)
        if document
    ]
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


def load(path: Path) -> Document:
    """The one document of a file."""
    (document,) = yaml.safe_load_all(path.read_text())
    return dict(document)


def kubernetes_versions() -> tuple[str, str]:
    """The oldest that the chart allows, and the newest whose schemas are known here."""
    oldest = re.match(r">=(\d+\.\d+)\.", load(CHART / "Chart.yaml")["kubeVersion"])
    assert oldest is not None
    newest: str = kubernetes_validate.latest_version()
    return oldest[1], newest.rpartition(".")[0]


def validate(document: Document) -> None:
    """Hold a document against its published schema, in which unknown fields are errors.

    Raises:
        kubernetes_validate.ValidationError: Kubernetes would not take it.
        pydantic.ValidationError: the Prometheus operator would not take it.
        AssertionError: there is a field of which nothing is known.
    """
    group = document["apiVersion"].partition("/")[0]
    if group == "monitoring.coreos.com":
        model = getattr(prometheus_operator, document["kind"])
        read = model.model_validate(document)
        understood = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
        # What the model does not know, it drops.
        assert understood == document, f"of {document} only {understood} is known"
    elif group == "serving.kserve.io":
        version = document["apiVersion"].partition("/")[2].capitalize()
        unknown = list(_unknown_fields(document, f"{version}{document['kind']}", document["kind"]))
        assert not unknown, unknown
    else:
        for version in kubernetes_versions():
            kubernetes_validate.validate(document, version, strict=True)


def _unknown_fields(value: Any, type_name: str, path: str) -> Iterator[str]:
    """Walk through a document along the types that KServe's and Kubernetes' clients declare.

    Yields:
        the paths of fields that no type has, and of values that are not of their type.
    """
    if nested := re.fullmatch(r"(?:list\[|dict\(str, )(.*)[\])]", type_name, re.IGNORECASE):
        items = enumerate(value) if isinstance(value, list) else value.items()
        for key, item in items:
            yield from _unknown_fields(item, nested[1], f"{path}.{key}")
        return
    model = getattr(kserve, type_name, None) or getattr(kubernetes, type_name, None)
    if model is None:
        simple = {"str": str, "int": int, "bool": bool, "float": float}.get(type_name)
        if simple is not None and not isinstance(value, simple):
            yield f"{path}: {value!r} is no {type_name}"
        return
    types = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    for key, item in value.items():
        if key not in types:
            yield f"{path}.{key} is not known"
        else:
            yield from _unknown_fields(item, types[key], f"{path}.{key}")
