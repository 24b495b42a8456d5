"""The Helm chart, rendered by Helm itself: valid, safe, in step with the service, strict."""

import copy
import ipaddress
import re
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry

from service.settings import Settings
from service.settings.names import PREFIX
from service.telemetry.metrics import Metrics
from tests.deploy import pods, settings_schema
from tests.deploy.manifests import (
    CHART,
    ROOT,
    Document,
    HelmRefusedError,
    lint,
    load,
    render,
    texts,
    validate,
)

ALWAYS = {"Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"}
OPTIONAL = {"HorizontalPodAutoscaler", "ServiceMonitor"}
ON_GPU = {"gpu": {"enabled": True, "runtimeClassName": "nvidia"}}
WITH_CLAIMS: Document = {
    "replicas": 1,
    "image": {"digest": "sha256:" + "0" * 64},
    "models": {"existingClaim": "models"},
    "settings": {"models": "/models/cats,everyday-vit-s14"},
    "hub": {"enabled": True},
    "serviceAccount": {"create": False},
    "strategy": {"type": "Recreate"},
    "runAsUser": None,
    "podDisruptionBudget": {"maxUnavailable": "50%"},
}
WITH_EVERYTHING: Document = {
    **ON_GPU,
    "image": {"repository": "example/rapid-vit", "tag": "1.2.3", "pullSecrets": ["registry"]},
    "settings": {
        "models": ["cats=/models/cats", "everyday-vit-s14"],
        "max_queue_bytes": 2**40,
        "max_wait_ms": 2.5,
        "brownout": True,
        "num_threads": 3,
        "warmup_tiers": ["exact", "fast"],
        "drain_delay_s": 7.5,
        "drain_timeout_s": 60,
    },
    "apiKeys": {"existingSecret": "clients", "key": "keys.txt"},
    "models": {"image": "example/models:1"},
    "hub": {"enabled": True, "existingClaim": "hub"},
    "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"example.com/a": "b"}},
    "serviceAccount": {"annotations": {"example.com/a": "b"}},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "kube-prometheus-stack"}},
    "networkPolicy": {
        "clients": [{"podSelector": {"matchLabels": {"app": "gateway"}}}],
        "extraEgress": [{"to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}]}],
    },
    "env": [
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
    ],
    "priorityClassName": "high",
    "podAnnotations": {"example.com/a": "b"},
    "podLabels": {"team": "vision", "app.kubernetes.io/name": "not this"},
    "nodeSelector": {"example.com/zone": "a"},
    "tolerations": [{"key": "example.com/a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}
VARIANTS: dict[str, Document] = {
    "defaults": {},
    "gpu": ON_GPU,
    "claims": WITH_CLAIMS,
    "everything": WITH_EVERYTHING,
}

every_variant = pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)


def pod_of(values: Document) -> Document:
    pod: Document = render(values)["Deployment"]["spec"]["template"]["spec"]
    return pod


def serving(values: Document) -> Document:
    (container,) = pod_of(values)["containers"]
    return dict(container)


@every_variant
def test_kubernetes_and_the_operator_know_every_field(values: Document) -> None:
    for document in render(values).values():
        validate(document)


@every_variant
def test_lint_finds_nothing_but_the_missing_icon(values: Document) -> None:
    found = lint(values)
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


def test_a_field_that_is_not_known_is_found() -> None:
    for kind, document in render(WITH_EVERYTHING).items():
        broken = copy.deepcopy(document)
        broken.get("spec", broken)["bogus"] = 1
        with pytest.raises((AssertionError, kubernetes_validate.ValidationError), match="bogus"):
            validate(broken)
        assert kind in ALWAYS | OPTIONAL


def test_what_is_there_by_default_and_what_on_demand() -> None:
    assert set(render({})) == ALWAYS
    assert set(render(WITH_EVERYTHING)) == ALWAYS | OPTIONAL
    nothing = {
        "serviceAccount": {"create": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
    }
    assert set(render(nothing)) == {"Deployment", "Service"}


@every_variant
def test_every_pod_keeps_the_laws(values: Document) -> None:
    pods.check(pod_of(values))


@every_variant
def test_the_names_that_refer_to_each_other_agree(values: Document) -> None:
    documents = render(values)
    deployment, service = documents["Deployment"], documents["Service"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(
            constraint["labelSelector"]["matchLabels"]
            for constraint in pod_of(values)["topologySpreadConstraints"]
        ),
    ]
    for selector in selectors:
        assert selector == {
            "app.kubernetes.io/name": "rapid",
            "app.kubernetes.io/instance": "demo",
        }
        assert selector.items() <= labels.items()
    if account := documents.get("ServiceAccount"):
        assert pod_of(values)["serviceAccountName"] == account["metadata"]["name"]
        assert account["automountServiceAccountToken"] is False
    if scaler := documents.get("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert target["name"] == deployment["metadata"]["name"]
        assert (target["apiVersion"], target["kind"]) == ("apps/v1", "Deployment")
    if monitor := documents.get("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= service["metadata"]["labels"].items()
    assert {document["metadata"]["namespace"] for document in documents.values()} == {"prod"}


@every_variant
def test_the_ports_agree(values: Document) -> None:
    documents = render(values)
    (container_port,) = serving(values)["ports"]
    (service_port,) = documents["Service"]["spec"]["ports"]
    assert service_port["targetPort"] == container_port["name"]
    (rule,) = documents["NetworkPolicy"]["spec"]["ingress"]
    assert rule["ports"] == [{"port": container_port["name"], "protocol": "TCP"}]
    if monitor := documents.get("ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] == service_port["name"]
        assert endpoint["path"] in pods.routes()


@pytest.mark.parametrize(
    ("given", "slack_s", "grace_s"),
    [
        ({}, 10, 45),
        ({"drain_delay_s": 0, "drain_timeout_s": 0}, 1, 1),
        ({"drain_delay_s": 2.5, "drain_timeout_s": 300}, 20, 323),
        ({"drain_delay_s": None, "drain_timeout_s": None}, 10, 45),  # the service's own defaults
    ],
)
def test_the_grace_period_covers_the_way_out(given: Document, slack_s: int, grace_s: int) -> None:
    pod = pod_of({"settings": given, "terminationSlackSeconds": slack_s})
    assert pod["terminationGracePeriodSeconds"] == grace_s
    understood = pods.settings(pod["containers"][0])
    assert grace_s >= understood.drain_delay_s + understood.drain_timeout_s + slack_s


@pytest.mark.parametrize("startup_s", [10, 61, 600, 3600])
def test_a_rollout_waits_longer_than_a_start_may_take(startup_s: int) -> None:
    values = {"startupSeconds": startup_s}
    probe = serving(values)["startupProbe"]
    may_take_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert startup_s <= may_take_s <= startup_s + 1
    assert render(values)["Deployment"]["spec"]["progressDeadlineSeconds"] > may_take_s


def test_the_service_reads_what_the_values_say() -> None:
    understood = pods.settings(serving(WITH_EVERYTHING))
    assert understood.models == ("cats=/models/cats", "everyday-vit-s14")
    assert understood.max_queue_bytes == 2**40
    assert understood.max_wait_ms == 2.5
    assert understood.brownout == "on"
    assert understood.warmup_tiers == ("exact", "fast")
    assert (understood.drain_delay_s, understood.drain_timeout_s) == (7.5, 60)
    assert understood.device == "cuda"


def test_the_defaults_are_the_service_s_own() -> None:
    understood = pods.settings(serving({}))
    differs = {
        name
        for name, value in understood.model_dump().items()
        if value != Settings.model_fields[name].default
    }
    assert differs == {"host", "device", "num_threads", "decode_threads"}


@pytest.mark.parametrize(("cpu", "threads"), [("1", 1), ("1500m", 2), (8, 8)])
def test_threads_follow_the_cpu_limit_unless_named(cpu: Any, threads: int) -> None:
    resources = {"limits": {"cpu": cpu}}
    understood = pods.settings(serving({"resources": resources}))
    assert (understood.num_threads, understood.decode_threads) == (threads, threads)
    named = pods.settings(serving({"resources": resources, "settings": {"num_threads": 5}}))
    assert named.num_threads == 5


def test_the_schema_knows_the_service_s_settings_and_their_limits() -> None:
    known = settings_schema.written()["properties"]["settings"]["properties"]
    assert known == settings_schema.expected(), "run python -m tests.deploy.settings_schema"


def leaves(values: Document, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def test_every_value_is_in_the_schema_and_used() -> None:
    values = load(CHART / "values.yaml")
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    for path in leaves(values):
        if path[0] not in ("settings", "resources") and path[:2] != ("gpu", "resources"):
            assert re.search(rf"\.{path[-1]}\b", templates), path
            allowed = settings_schema.written()
            for name in path:
                allowed = allowed["properties"][name]
    for group, allowed in settings_schema.written()["properties"].items():
        if group not in ("global", "settings", "strategy") and "properties" in allowed:
            assert set(values[group]) == set(allowed["properties"]), group
    assert set(values) == set(settings_schema.written()["properties"]) - {"global"}
    assert set(values["settings"]) <= set(Settings.model_fields) - settings_schema.OWN


def test_every_object_of_the_schema_is_closed() -> None:
    def objects(node: Any) -> Iterator[Document]:
        if isinstance(node, dict):
            if "properties" in node:
                yield node
            for child in node.values():
                yield from objects(child)

    assert all(node["additionalProperties"] is False for node in objects(settings_schema.written()))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replica": 3}, "additional properties 'replica' not allowed"),
        ({"gpu": {"enable": True}}, "at '/gpu': additional properties 'enable' not allowed"),
        ({"settings": {"max_batch": 8}}, "additional properties 'max_batch' not allowed"),
        ({"settings": {"max_batch_size": 0}}, "at '/settings/max_batch_size': minimum"),
        ({"settings": {"host": "127.0.0.1"}}, "additional properties 'host' not allowed"),
        ({"settings": {"log_level": "loud"}}, "at '/settings/log_level'"),
        ({"env": [{"name": "RAPID_PORT", "value": "1"}]}, "at '/env/0/name'"),
        ({"resources": {"limits": {"memory": None}}}, "missing property 'memory'"),
        ({"terminationSlackSeconds": 0}, "at '/terminationSlackSeconds'"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget/maxUnavailable"),
        ({"podDisruptionBudget": {"maxUnavailable": "0%"}}, "/podDisruptionBudget/maxUnavailable"),
        ({"image": {"digest": "latest"}}, "at '/image/digest'"),
        ({"runAsUser": 0}, "at '/runAsUser'"),
        ({"fullnameOverride": "not.a.service"}, "at '/fullnameOverride'"),
        ({"models": {"existingClaim": "a", "image": "b"}}, "exclude each other"),
        (
            {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 2}},
            "minReplicas is larger",
        ),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(values: Document, complaint: str) -> None:
    with pytest.raises(HelmRefusedError, match=re.escape(complaint)):
        render(values)


@pytest.mark.parametrize("replicas", [0, 1, 2])
def test_the_budget_never_keeps_a_node_from_being_drained(replicas: int) -> None:
    budget = render({"replicas": replicas})["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_autoscaler_looks_at_a_metric_that_the_service_has() -> None:
    documents = render(WITH_EVERYTHING)
    (metric,) = documents["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f"# TYPE {name} gauge" in Metrics(CollectorRegistry()).render().decode()
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "700m"}
    # Both of them setting the number would fight over it.
    assert "replicas" not in documents["Deployment"]["spec"]
    assert render({})["Deployment"]["spec"]["replicas"] == 2


def test_a_new_pod_comes_first_unless_it_would_need_a_further_gpu() -> None:
    on_cpu, on_gpu = (render(values)["Deployment"]["spec"]["strategy"] for values in ({}, ON_GPU))
    assert on_cpu["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert on_gpu["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert render(WITH_CLAIMS)["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}


def test_one_process_has_one_gpu_and_the_image_for_it() -> None:
    container = serving(ON_GPU)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"] == f"rapid-vit:{load(CHART / 'Chart.yaml')['appVersion']}-cuda"
    assert pods.settings(container).device == "cuda"
    assert pod_of(ON_GPU)["runtimeClassName"] == "nvidia"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod_of(
        ON_GPU
    )["tolerations"]
    sliced = serving({"gpu": {"enabled": True, "resourceName": "nvidia.com/mig-1g.10gb"}})
    assert sliced["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == 1
    assert "nvidia.com/gpu" not in sliced["resources"]["limits"]
    for values in ({}, WITH_CLAIMS):
        assert set(serving(values)["resources"]["limits"]) == {"cpu", "memory"}
        assert pods.settings(serving(values)).device == "cpu"
        assert not {"tolerations", "runtimeClassName"} & set(pod_of(values))


def test_the_image_is_the_one_that_is_named() -> None:
    assert serving(WITH_EVERYTHING)["image"] == "example/rapid-vit:1.2.3-cuda"
    assert serving(WITH_CLAIMS)["image"] == "rapid-vit@sha256:" + "0" * 64
    assert pod_of(WITH_EVERYTHING)["imagePullSecrets"] == [{"name": "registry"}]


def test_the_chart_is_for_this_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert load(CHART / "Chart.yaml")["appVersion"] == project["version"]
    assert serving({})["image"] == f"rapid-vit:{project['version']}"


def ports(rules: list[Document]) -> set[int]:
    return {port["port"] for rule in rules for port in rule.get("ports", [])}


def test_nothing_leaves_but_questions_for_names() -> None:
    policy = render({})["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert ports(policy["egress"]) == {53}
    assert all(rule["to"] for rule in policy["egress"])
    assert pods.environment(serving({}))["HF_HUB_OFFLINE"] == "1"


def test_with_the_hub_the_internet_is_open_and_the_cluster_is_not() -> None:
    policy = render(WITH_CLAIMS)["NetworkPolicy"]["spec"]
    assert ports(policy["egress"]) == {53, 443}
    (rule,) = (rule for rule in policy["egress"] if ports([rule]) == {443})
    for address in ("10.1.2.3", "172.20.0.1", "192.168.1.1", "169.254.169.254", "fd00::1"):
        inside = ipaddress.ip_address(address)
        for peer in rule["to"]:
            block = ipaddress.ip_network(peer["ipBlock"]["cidr"])
            closed = map(ipaddress.ip_network, peer["ipBlock"]["except"])
            assert inside not in block or any(inside in network for network in closed)
    environment = pods.environment(serving(WITH_CLAIMS))
    assert "HF_HUB_OFFLINE" not in environment
    mounted = {mount["mountPath"]: mount for mount in serving(WITH_CLAIMS)["volumeMounts"]}
    assert "readOnly" not in mounted[environment["XDG_CACHE_HOME"]]


def test_who_may_come_in() -> None:
    (anybody,) = render({})["NetworkPolicy"]["spec"]["ingress"]
    assert "from" not in anybody
    (limited,) = render(WITH_EVERYTHING)["NetworkPolicy"]["spec"]["ingress"]
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert limited["from"] == [
        {"podSelector": {"matchLabels": {"app": "gateway"}}},
        {"namespaceSelector": monitoring},
    ]


def test_api_keys_come_from_the_secret() -> None:
    container, pod = serving(WITH_EVERYTHING), pod_of(WITH_EVERYTHING)
    file = pods.settings(container).api_keys_file
    (mount,) = (mount for mount in container["volumeMounts"] if file.startswith(mount["mountPath"]))
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mount["name"])
    (item,) = volume["secret"]["items"]
    assert volume["secret"]["secretName"] == "clients"
    assert item["key"] == "keys.txt"
    assert f"{mount['mountPath']}/{item['path']}" == file
    assert mount["readOnly"] is True
    # Only the owner and the group, and the group is the process's.
    assert volume["secret"]["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"] == 10001
    assert pods.settings(serving({})).api_keys_file == ""


@pytest.mark.parametrize("values", [WITH_CLAIMS, WITH_EVERYTHING], ids=["claim", "image"])
def test_models_lie_where_the_settings_look(values: Document) -> None:
    container, pod = serving(values), pod_of(values)
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "models")
    folder = pods.settings(container).models[0].rpartition("=")[2]
    assert folder.startswith(mount["mountPath"] + "/")
    assert mount["readOnly"] is True
    for copier in pod.get("initContainers", []):
        assert copier["image"] == "example/models:1"
        source, target = copier["command"][-2:]
        assert source == f"{mount['mountPath']}/."
        (into,) = copier["volumeMounts"]
        assert (into["name"], into["mountPath"]) == ("models", target.rstrip("/"))
    assert ("initContainers" in pod) == ("image" in values["models"])


def test_own_labels_do_not_replace_what_selects_the_pods() -> None:
    labels = render(WITH_EVERYTHING)["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert (labels["team"], labels["app.kubernetes.io/name"]) == ("vision", "rapid")
    monitor = render(WITH_EVERYTHING)["ServiceMonitor"]["metadata"]["labels"]
    assert monitor["release"] == "kube-prometheus-stack"


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("demo", {}, "demo-rapid"),
        ("rapid", {}, "rapid"),
        ("demo", {"fullnameOverride": "vision"}, "vision"),
        ("demo", {"nameOverride": "vision"}, "demo-vision"),
        ("r" * 53, {"nameOverride": "n" * 20}, "r" * 53 + "-" + "n" * 9),
    ],
)
def test_the_name_of_everything(release: str, values: Document, name: str) -> None:
    names = {document["metadata"]["name"] for document in render(values, release).values()}
    assert names == {name}
    assert len(name) <= 63


def test_the_notes_lead_to_the_service() -> None:
    notes = texts({})["NOTES.txt"]
    assert "port-forward service/demo-rapid 8000:80" in notes
    assert "/v1/classify" in pods.routes()
    assert "/v1/classify?" in notes
    assert "apiKeys.existingSecret" in notes
    with_keys = texts(WITH_EVERYTHING)["NOTES.txt"]
    assert "8000:8080" in with_keys
    assert "X-API-Key" in with_keys
    assert "before you expose it" not in with_keys


def blocks(language: str) -> list[str]:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_the_page_s_values_are_allowed() -> None:
    values = [block for block in blocks("yaml") if block.startswith("# values")]
    assert len(values) >= 2
    for block in values:
        for document in render(yaml.safe_load(block)).values():
            validate(document)


def test_the_page_s_options_are_values() -> None:
    options = re.findall(r"--set (?:[\w.]+=\S+)", "\n".join(blocks("sh")))
    assert options
    known = {".".join(path) for path in leaves(load(CHART / "values.yaml"))}
    for option in options:
        name = option.removeprefix("--set ").partition("=")[0]
        assert name in known or name.startswith("settings."), option


def test_the_page_s_adapter_rule_gives_the_autoscaler_its_metric() -> None:
    (adapter,) = (yaml.safe_load(block) for block in blocks("yaml") if "seriesQuery" in block)
    (rule,) = adapter["rules"]["custom"]
    (metric,) = render(WITH_EVERYTHING)["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(name + "{")
    # A Pods metric is one that belongs to a pod of a namespace.
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}


def test_the_page_s_command_makes_rules_of_both_files() -> None:
    (block,) = (block for block in blocks("sh") if "PrometheusRule" in block)
    assert block.count("kubectl apply -f -") == 1
    written = subprocess.run(
        ["bash", "-c", block.replace("kubectl apply -f -", "{ cat; echo ---; }")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    documents = [document for document in yaml.safe_load_all(written) if document]
    folder = ROOT / "deploy" / "prometheus"
    for rule, name in zip(documents, ("recording", "alerts"), strict=True):
        validate(rule)
        assert rule["spec"] == yaml.safe_load((folder / f"{name}.yml").read_text())
    assert len({rule["metadata"]["name"] for rule in documents}) == 2


def test_no_variable_of_the_service_is_written_down_wrongly() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for path in [*CHART.rglob("*.yaml"), *(ROOT / "deploy" / "kserve").iterdir()]:
        for name in re.findall(rf"{PREFIX}[A-Z_]*[A-Z]\b(?!\*)", path.read_text()):
            assert name in known, (path.name, name)
