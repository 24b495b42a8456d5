"""Who may import whom. A new arrow is a decision: add it here, and say why in the change."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CORE: dict[str, set[str]] = {
    "errors": set(),
    "schedule": {"errors"},
    "tokens": set(),
    "vit": {"errors"},
    "precision": set(),
    "plans": set(),
    "attention": {"precision", "vit"},
    "contract": {"attention", "plans", "schedule", "tokens"},
    "matching": {"contract", "plans", "precision"},
    "methods": {
        *("attention", "contract", "errors", "matching", "plans", "schedule", "tokens"),
    },
    "reduction": {"plans", "precision", "tokens"},
    "blocks": {
        *("attention", "contract", "errors", "plans", "reduction", "tokens", "vit"),
    },
    "cost": {"blocks", "contract", "errors", "schedule", "vit"},
    "patch": {
        *("attention", "blocks", "contract", "cost", "errors", "matching", "methods", "schedule"),
        *("tokens", "vit"),
    },
    "tracing": {"blocks", "errors", "patch", "plans", "tokens"},
    "calibration": {"cost", "errors", "patch", "vit"},
    "__init__": {"calibration", "cost", "errors", "methods", "patch", "schedule", "tracing"},
}

SERVICE: dict[str, set[str]] = {
    "errors": set(),
    "event_log": set(),
    "calls": set(),
    "cores": set(),
    "early_exit": set(),
    "forecast": set(),
    "model_statistics": set(),
    "impatient": set(),
    "tiers": {"errors"},
    "settings": {"errors", "tiers"},
    "schemas": {"tiers"},
    "choice": {"errors", "schemas", "tiers"},
    "brownout": {"tiers"},
    "lifecycle": {"errors"},
    "api_keys": {"errors"},
    "images": {"errors"},
    "admission": {"errors"},
    "batch_policy": set(),
    "lanes": {"batch_policy"},
    "streams": {"batch_policy", "lanes"},
    "batching": {"batch_policy", "errors", "lanes", "streams"},
    "decoding": {"forecast", "images", "models"},
    "measured": set(),
    "probe_set": {"errors", "schemas"},
    "probe": {"decoding", "errors", "measured", "metrics", "models", "probe_set", "tiers"},
    "probe_command": {
        *("engine", "errors", "graphs", "images", "measured", "models", "placement", "probe"),
        *("probe_set", "resizing", "schemas", "tiers", "timm_models"),
    },
    "probe_plot": {"probe_command"},
    "shadow": {"batching", "errors", "metrics", "models", "tiers"},
    "metrics": set(),
    "timm_models": {"errors", "pixels", "resizing", "schemas"},
    "models": {
        *("errors", "measured", "model_statistics", "pixels", "placement", "resizing", "tiers"),
        "timm_models",
    },
    "calibrate": {"errors", "images", "schemas", "tiers", "timm_models"},
    "packing": set(),
    "resizing": set(),
    "pixels": set(),
    "memory": set(),
    "placement": {"errors", "packing"},
    "graphs": {"models", "placement"},
    "openvino_graphs": {"graphs", "models", "packing"},
    "engine": {"cores", "errors", "graphs", "models", "pixels", "placement"},
    "ranking": {"schemas"},
    "classify": {
        *("admission", "api_keys", "batching", "brownout", "calls", "choice", "decoding"),
        *("errors", "forecast", "lanes", "lifecycle", "metrics", "models", "schemas", "shadow"),
        "tiers",
    },
    "answers": {"classify", "ranking", "schemas"},
    "routes": {
        *("answers", "calls", "classify", "errors", "event_log", "lifecycle", "measured"),
        *("model_statistics", "models", "ranking", "schemas", "settings", "tiers"),
    },
    "startup": {
        *("classify", "engine", "errors", "metrics", "models", "probe", "probe_set", "routes"),
        *("settings", "tiers", "timm_models"),
    },
    "app": {
        *("admission", "api_keys", "batch_policy", "batching", "brownout", "calls", "classify"),
        *("cores", "decoding", "engine", "errors", "forecast", "graphs", "lifecycle"),
        *("metrics", "models", "placement", "probe", "routes", "settings", "shadow", "startup"),
    },
    "__main__": {
        *("app", "calibrate", "early_exit", "errors", "event_log", "impatient"),
        *("lifecycle", "memory", "placement", "probe_command", "resizing", "settings", "tiers"),
    },
    "__init__": set(),
}

DOORS = {
    "fastapi": {"routes", "app"},
    "starlette": {"routes"},
    "uvicorn": {"__main__", "impatient"},
    "rapid_core": {"calibrate", "models"},
    "timm": {"timm_models"},
    "torchvision": {"timm_models"},
    "torch": {
        *("app", "batching", "calibrate", "classify", "decoding", "engine", "graphs", "images"),
        *("lanes", "measured", "models", "openvino_graphs", "packing", "pixels", "placement"),
        *("probe", "probe_command", "ranking", "resizing", "routes", "shadow", "timm_models"),
    },
    "PIL": {"images", "models", "resizing", "timm_models"},
    "matplotlib": {"probe_plot"},
    "httptools": {"impatient"},
    "python_multipart": {"routes"},
    "openvino": {"openvino_graphs"},
    "psutil": {"engine", "openvino_graphs"},
    "prometheus_client": {"app", "metrics", "routes"},
    "pydantic": {"routes", "schemas", "settings"},
    "pydantic_settings": {"settings"},
    "pythonjsonlogger": {"event_log"},
}
"""Outside packages, and the files of the service that may import them."""

FORBIDDEN_NAMES = {"utils", "helpers", "common"}


def unit(path: Path) -> str:
    """A file's name in the tables; all files of a folder inside a package count as one."""
    return path.stem if path.parent.parent == ROOT else path.parent.name


def imports(path: Path) -> set[str]:
    """Dotted names of everything that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(("package", "arrows"), [("rapid_core", CORE), ("service", SERVICE)])
def test_every_import_inside_a_package_is_on_the_list(
    package: str, arrows: dict[str, set[str]]
) -> None:
    found: dict[str, set[str]] = {name: set() for name in arrows}
    for path in files(package):
        inside = {name.split(".")[1] for name in imports(path) if name.startswith(f"{package}.")}
        found.setdefault(unit(path), set()).update(inside - {unit(path)})
    assert found == arrows


def test_the_core_imports_torch_and_the_standard_library_only() -> None:
    """But for Triton, which comes with torch or is done without."""
    for path in files("rapid_core"):
        outside = {name.split(".")[0] for name in imports(path)} - {"torch", "rapid_core"}
        allowed = {"triton"} if path.stem == "kernels" else set()
        assert outside - sys.stdlib_module_names <= allowed, path


def test_every_outside_package_has_its_doors() -> None:
    found: dict[str, set[str]] = {package: set() for package in DOORS}
    for path in files("service"):
        for package in {name.split(".")[0] for name in imports(path)} & DOORS.keys():
            found[package].add(unit(path))
    assert found == DOORS


def test_no_import_hides_inside_a_function() -> None:
    for path in [*files("rapid_core"), *files("service")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
                assert not inside, f"{path}: {node.name}"


def test_only_settings_reads_the_environment() -> None:
    reads = ("os.environ", "getenv")
    readers = {
        unit(path) for path in files("service") if any(read in path.read_text() for read in reads)
    }
    assert readers == {"settings"}


def test_files_are_named_after_what_they_own() -> None:
    names = {path.stem for package in ("rapid_core", "service") for path in files(package)}
    assert not names & FORBIDDEN_NAMES
