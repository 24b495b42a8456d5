"""The manifests for KServe: known to its published types, lawful pods, in step with the service."""

import copy
import re
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from tests.deploy import pods
from tests.deploy.manifests import (
    CHART,
    KSERVE,
    ROOT,
    Document,
    kubernetes_versions,
    load,
    render,
    validate,
)

BUNDLED = load(KSERVE / "inference-service.yaml")
RUNTIME = load(KSERVE / "serving-runtime.yaml")
OWN_MODEL = load(KSERVE / "own-model.yaml")
OF_KSERVE = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout", "model"}
"""fields of a predictor that are not of the pod."""
DOCUMENTS = {"bundled": BUNDLED, "runtime": RUNTIME, "own": OWN_MODEL}


def pod_fields(predictor: Document) -> Document:
    return {name: value for name, value in predictor.items() if name not in OF_KSERVE}


def own_model_pod() -> Document:
    """As KServe builds it: the runtime's containers and volumes in the predictor's pod."""
    pod = {**pod_fields(OWN_MODEL["spec"]["predictor"])}
    pod["volumes"] = RUNTIME["spec"]["volumes"]
    pod["containers"] = copy.deepcopy(RUNTIME["spec"]["containers"])
    for variable in pod["containers"][0]["env"]:
        if "value" in variable:
            name = OWN_MODEL["metadata"]["name"]
            variable["value"] = variable["value"].replace("{{.Name}}", name)
    return pod


PODS = {"bundled": pod_fields(BUNDLED["spec"]["predictor"]), "own": own_model_pod()}
every_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_kserve_knows_every_field(document: Document) -> None:
    validate(document)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (["spec", "predictor", "minReplica"], 1, "minReplica is not known"),
        (["spec", "predictor", "minReplicas"], "1", "'1' is no int"),
        (["spec", "predictor", "containers", 0, "port"], [], "port is not known"),
        (["spec", "predictor", "containers", 0, "livenessProbe", "path"], "/", "path is not known"),
    ],
)
def test_a_field_that_is_not_known_is_found(path: list[Any], value: Any, complaint: str) -> None:
    broken = copy.deepcopy(BUNDLED)
    *parents, last = path
    node: Any = broken
    for name in parents:
        node = node[name]
    node[last] = value
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        validate(broken)


@every_pod
def test_kubernetes_knows_every_field_of_the_pod(pod: Document) -> None:
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rapid"}, "spec": pod}
    for version in kubernetes_versions():
        kubernetes_validate.validate(document, version, strict=True)


@every_pod
def test_every_pod_keeps_the_laws(pod: Document) -> None:
    pods.check(pod)


@every_pod
def test_the_pod_is_the_chart_s(pod: Document) -> None:
    by_chart = render({})["Deployment"]["spec"]["template"]["spec"]
    (ours,), (theirs,) = pod["containers"], by_chart["containers"]
    assert ours["image"] == theirs["image"]
    assert ours["resources"] == theirs["resources"]
    assert ours["securityContext"] == theirs["securityContext"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        rhythm = {name: ours[probe][name] for name in ours[probe] if name != "httpGet"}
        assert rhythm == {name: theirs[probe][name] for name in theirs[probe] if name != "httpGet"}
    assert pod["terminationGracePeriodSeconds"] == by_chart["terminationGracePeriodSeconds"]
    settings, in_chart = pods.settings(ours), pods.settings(theirs)
    assert settings.model_dump(exclude={"models"}) == in_chart.model_dump(exclude={"models"})


@every_pod
def test_kserve_finds_container_and_port(pod: Document) -> None:
    (container,) = pod["containers"]
    assert container["name"] == "kserve-container"
    (port,) = container["ports"]
    assert port["name"] == "http1"


@pytest.mark.parametrize("document", [BUNDLED, OWN_MODEL], ids=["bundled", "own"])
def test_a_request_is_given_up_by_the_service_first(document: Document) -> None:
    (container,) = PODS["bundled"]["containers"]
    predictor = document["spec"]["predictor"]
    assert predictor["timeout"] > pods.settings(container).deadline_ms / 1000
    assert 1 <= predictor["minReplicas"] <= predictor["maxReplicas"]


def test_it_is_announced_as_the_open_inference_protocol() -> None:
    (container,) = PODS["bundled"]["containers"]
    assert pods.environment(container)["PROTOCOL"] == "v2"
    assert RUNTIME["spec"]["protocolVersions"] == ["v2"]
    assert OWN_MODEL["spec"]["predictor"]["model"]["protocolVersion"] == "v2"


@pytest.mark.parametrize(
    ("annotations", "pod"),
    [
        (BUNDLED["metadata"]["annotations"], PODS["bundled"]),
        (RUNTIME["spec"]["annotations"], PODS["own"]),
    ],
    ids=["bundled", "own"],
)
def test_prometheus_is_sent_to_the_metrics(annotations: Document, pod: Document) -> None:
    (container,) = pod["containers"]
    assert annotations["prometheus.kserve.io/path"] in pods.routes()
    assert int(annotations["prometheus.kserve.io/port"]) == container["ports"][0]["containerPort"]


def test_the_own_model_runs_on_the_runtime_under_its_own_name() -> None:
    model = OWN_MODEL["spec"]["predictor"]["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    supported = [
        (each["name"], each["version"]) for each in RUNTIME["spec"]["supportedModelFormats"]
    ]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in supported
    (container,) = PODS["own"]["containers"]
    assert pods.settings(container).models == ("cats=/mnt/models",)


def test_the_page_s_requests_go_where_models_answer() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    asked = re.findall(r"/v2/models/([\w-]+)/infer", page)
    (container,) = PODS["bundled"]["containers"]
    served = {*pods.settings(container).models, OWN_MODEL["metadata"]["name"]}
    assert set(asked) == served
    assert "/v2/models/{name}/infer" in pods.routes()
    for path in re.findall(r"deploy/(?:helm|kserve)/[\w./-]+\w", page):
        assert (ROOT / path).exists(), path
    assert CHART.is_dir()
