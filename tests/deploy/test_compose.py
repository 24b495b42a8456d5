"""The compose files, alone and together, and what they mount."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]

from service.settings import Settings
from service.settings.names import PREFIX
from tests.deploy.dockerfile import only, pairs, stages

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker" / "compose.yml"
GPU = ROOT / "docker" / "compose.gpu.yml"
PROMETHEUS = ROOT / "deploy" / "prometheus" / "prometheus.yml"
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
BUILDER, FINAL = stages(ROOT / "docker" / "Dockerfile")
SECONDS = {"h": 3600, "m": 60, "s": 1}

# Any: what YAML holds.
Document = dict[str, Any]


class Mount(NamedTuple):
    """One line of `volumes`."""

    source: str
    """a path as it is written, or the name of a volume."""
    target: str
    is_read_only: bool

    @property
    def folder(self) -> Path:
        """What is mounted, if that is not a named volume."""
        return (COMPOSE.parent / self.source).resolve()


def read(*paths: Path) -> Document:
    """Compose files, the later ones over the earlier, with every variable at its default."""
    merged: Document = {}
    for path in paths:
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", path.read_text())
        assert "$" not in text  # compose warns of variables without a default
        merged = merge(merged, yaml.safe_load(text))
    return merged


def merge(under: Document, over: Document) -> Document:
    both = {
        key: merge(under[key], over[key])
        for key in under.keys() & over.keys()
        if isinstance(under[key], dict)
    }
    return {**under, **over, **both}


@pytest.fixture(scope="module")
def services() -> Document:
    found: Document = read(COMPOSE)["services"]
    return found


@pytest.fixture(scope="module")
def gpu() -> Document:
    found: Document = read(COMPOSE, GPU)["services"]["rapid"]
    return found


def ports(service: Document) -> list[tuple[str, str, str]]:
    """Address and port of the host, and port of the container."""
    found = []
    for port in service["ports"]:
        address, published, target = port.split(":")
        found.append((address, published, target))
    return found


def mounts(service: Document) -> list[Mount]:
    found = []
    for volume in service["volumes"]:
        source, target, *mode = volume.split(":")
        found.append(Mount(source, target, mode == ["ro"]))
    return found


def seconds(duration: str) -> float:
    return sum(float(n) * SECONDS[unit] for n, unit in re.findall(r"([\d.]+)([hms])", duration))


def settings(service: Document, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the service would start with."""
    variables = {**pairs(FINAL, "ENV"), **service["environment"]}
    variables = {name: value for name, value in variables.items() if name.startswith(PREFIX)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.from_environment(variables)


def check_schema(*paths: Path) -> subprocess.CompletedProcess[str]:
    """Compare files with the schema of the Compose Specification."""
    return subprocess.run(
        [
            Path(sys.executable).with_name("check-jsonschema"),
            *("--builtin-schema", "vendor.compose-spec"),
            *paths,
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_files_are_what_the_compose_specification_says(tmp_path: Path) -> None:
    done = check_schema(COMPOSE, GPU)
    assert done.returncode == 0, done.stdout
    misspelt = tmp_path / "compose.yml"
    misspelt.write_text(COMPOSE.read_text().replace("stop_grace_period:", "stop_grace:"))
    refused = check_schema(misspelt)
    assert refused.returncode == 1
    assert "'stop_grace' was unexpected" in refused.stdout


def test_each_service_may_do_no_more_than_it_must(services: Document) -> None:
    assert set(services) == {"rapid", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "network_mode", "pid", "user"} & set(service), name


def test_no_port_can_be_reached_from_another_machine(services: Document) -> None:
    for service in services.values():
        assert [address for address, _, _ in ports(service)] == ["127.0.0.1"]


def test_images_that_are_pulled_have_a_version(services: Document) -> None:
    for name, service in services.items():
        if "build" not in service:
            assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"]), name


def test_the_image_is_built_from_this_repository(services: Document, gpu: Document) -> None:
    for service in (services["rapid"], gpu):
        build = service["build"]
        assert (COMPOSE.parent / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert set(build.get("args", {})) <= set(pairs(BUILDER, "ARG"))
    assert services["rapid"]["image"] != gpu["image"]


def test_its_settings_are_settings(
    services: Document, gpu: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings(services["rapid"], monkeypatch).models == Settings().models
    assert settings(gpu, monkeypatch).device == "cuda"


def test_it_is_given_the_time_to_finish_accepted_work(
    services: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = settings(services["rapid"], monkeypatch)
    grace_s = seconds(services["rapid"]["stop_grace_period"])
    assert grace_s > ours.drain_delay_s + ours.drain_timeout_s


def test_a_signal_reaches_it_even_while_it_starts(services: Document) -> None:
    service = services["rapid"]
    assert service["init"] is True
    assert not {"entrypoint", "command"} & set(service)  # the image's


def test_each_service_has_its_health_checked(services: Document) -> None:
    assert "healthcheck" not in services["rapid"]  # the image has its own
    assert only(FINAL, "HEALTHCHECK").value
    for name in ("prometheus", "grafana"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"


def test_what_it_writes_goes_where_it_may_write(services: Document) -> None:
    service = services["rapid"]
    writable = [mount.target for mount in mounts(service) if not mount.is_read_only]
    writable += [mount.partition(":")[0] for mount in service["tmpfs"]]
    variables = pairs(FINAL, "ENV")
    for name in ("HOME", "XDG_CACHE_HOME"):
        assert any(Path(variables[name]).is_relative_to(target) for target in writable), name


def test_all_that_is_mounted_is_there_and_only_read(services: Document) -> None:
    volumes = read(COMPOSE)["volumes"]
    for mount in [mount for service in services.values() for mount in mounts(service)]:
        if mount.source not in volumes:
            assert mount.folder.is_relative_to(ROOT)
            assert any(mount.folder.iterdir()), mount
            assert mount.is_read_only


def mounted_at(service: Document, target: str) -> Path:
    """The folder of the repository that a service finds under this path."""
    (folder,) = [mount.folder for mount in mounts(service) if mount.target == target]
    return folder


def test_prometheus_scrapes_the_service_by_its_rules(services: Document) -> None:
    assert mounted_at(services["prometheus"], "/etc/prometheus") == PROMETHEUS.parent
    config = yaml.safe_load(PROMETHEUS.read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "rapid"
    port = only(FINAL, "EXPOSE").value
    assert job["static_configs"] == [{"targets": [f"rapid:{port}"]}]
    assert ports(services["rapid"]) == [("127.0.0.1", port, port)]
    assert config["rule_files"] == ["alerts.yml", "recording.yml"]
    for name in config["rule_files"]:
        assert (PROMETHEUS.parent / name).is_file(), name


def test_grafana_finds_prometheus(services: Document) -> None:
    assert mounted_at(services["grafana"], "/etc/grafana/provisioning") == PROVISIONING
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    ((_, _, port),) = ports(services["prometheus"])
    assert (source["uid"], source["type"]) == ("prometheus", "prometheus")
    assert source["url"] == f"http://prometheus:{port}"
    interval = yaml.safe_load(PROMETHEUS.read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval


def test_grafana_finds_the_dashboards(services: Document) -> None:
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "rapid.yml").read_text())[
        "providers"
    ]
    folder = mounted_at(services["grafana"], provider["options"]["path"])
    assert folder == ROOT / "deploy" / "grafana" / "dashboards"
    assert list(folder.glob("*.json"))


def test_grafana_shows_and_lets_nobody_change(services: Document) -> None:
    environment = services["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


def test_the_gpu_is_asked_for_with_a_build_for_it(gpu: Document) -> None:
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    cpu = pairs(BUILDER, "ARG")["TORCH_INDEX_URL"]
    folder, _, name = gpu["build"]["args"]["TORCH_INDEX_URL"].rpartition("/")
    assert cpu == f"{folder}/cpu"
    assert re.fullmatch(r"cu\d+", name)
