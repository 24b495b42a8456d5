"""The laws that every pod keeps, whoever wrote it: the chart or the manifests for KServe."""

import math
import os
from fractions import Fraction
from typing import Any

import pytest

from service.api.app import create_app
from service.settings import Settings
from service.settings.names import PREFIX
from tests.deploy.manifests import Document


def containers(pod: Document) -> list[Document]:
    """All of them, those for the start included."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: Document) -> dict[str, str]:
    """The container's variables as the process would see them; those from Secrets are left out."""
    variables = {}
    for variable in container["env"]:
        if "value" in variable:
            variables[variable["name"]] = variable["value"]
        elif "resourceFieldRef" in variable["valueFrom"]:
            field = variable["valueFrom"]["resourceFieldRef"]["resource"]
            kind, resource = field.split(".")
            amount = container["resources"][kind][resource]
            variables[variable["name"]] = str(math.ceil(_number(str(amount))))
    return variables


def _number(quantity: str) -> Fraction:
    return Fraction(quantity[:-1]) / 1000 if quantity.endswith("m") else Fraction(quantity)


def settings(container: Document) -> Settings:
    """The service's own reading of the container's environment.

    Raises:
        SettingsError: the service would not start with it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
            patch.delenv(name)
        for name, value in environment(container).items():
            patch.setenv(name, value)
        return Settings.from_environment()


def check(pod: Document) -> None:
    """Every law."""
    (serving,) = pod["containers"]
    check_security(pod)
    check_mounts(pod)
    check_probes(serving)
    check_leaving(pod, settings(serving))
    for container in containers(pod):
        resources = container["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"} <= set(resources["limits"])
    assert len({variable["name"] for variable in serving["env"]}) == len(serving["env"])
    # Kubernetes would set RAPID_PORT=tcp://... for a Service named rapid.
    assert pod["enableServiceLinks"] is False


def check_security(pod: Document) -> None:
    """What the Pod Security Standard `restricted` asks for, and a read-only file system."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for container in containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    for volume in pod["volumes"]:
        (kind,) = set(volume) - {"name"}
        assert kind in {"emptyDir", "secret", "persistentVolumeClaim"}
        if kind == "emptyDir":
            assert volume[kind]["sizeLimit"]


def check_mounts(pod: Document) -> None:
    """Every volume is mounted, every mount has its volume, and /tmp can be written to."""
    mounts = [mount for container in containers(pod) for mount in container["volumeMounts"]]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in mounts} == set(volumes)
    (serving,) = pod["containers"]
    paths = {mount["mountPath"]: mount for mount in serving["volumeMounts"]}
    assert "emptyDir" in volumes[paths["/tmp"]["name"]]
    assert "readOnly" not in paths["/tmp"]
    for place in ("HOME", "XDG_CACHE_HOME"):
        mount = paths[environment(serving)[place]]
        assert "readOnly" not in mount


def check_probes(serving: Document) -> None:
    """Each asks a route that there is, on the port that the service listens on."""
    (port,) = serving["ports"]
    assert port["containerPort"] == settings(serving).port
    alive, ready = {"/livez", "/v2/health/live"}, {"/readyz", "/v2/health/ready"}
    for name, paths in (
        ("startupProbe", ready),
        ("readinessProbe", ready),
        ("livenessProbe", alive),
    ):
        probe = serving[name]
        path = probe["httpGet"]["path"]
        assert path in paths
        assert path in routes()
        assert probe["httpGet"]["port"] in (port["name"], port["containerPort"])
    # A busy process gets a minute; one that loads a large model, ten.
    assert _patience_s(serving["livenessProbe"]) >= 60
    assert _patience_s(serving["startupProbe"]) >= 60


def _patience_s(probe: Document) -> int:
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def check_leaving(pod: Document, understood: Settings) -> None:
    """SIGKILL comes after the service has left by itself; it is told of the cluster's traffic."""
    leaving_s = understood.drain_delay_s + understood.drain_timeout_s
    assert pod["terminationGracePeriodSeconds"] > leaving_s
    assert understood.drain_delay_s >= 0
    assert understood.host == "0.0.0.0"


def routes() -> dict[str, Any]:
    """The real app's documented routes."""
    paths: dict[str, Any] = create_app(Settings()).openapi()["paths"]
    return paths
