"""The chart's schema of `settings`, out of the service's own.

The chart has its copy so that Helm refuses what the service would, before any pod is replaced;
`python -m tests.deploy.settings_schema` writes it anew.
"""

import json
from typing import Any

from service.settings import Settings
from tests.deploy.manifests import CHART

PATH = CHART / "values.schema.json"
OWN = {"host", "port", "device", "api_keys_file"}
"""settings that the chart derives from other values."""
CONSTRAINTS = ("type", "minimum", "maximum", "exclusiveMinimum", "enum", "pattern")


def expected() -> dict[str, Any]:
    """What `settings` may hold, by name."""
    properties = Settings.model_json_schema()["properties"]
    return {name: _of_one(field) for name, field in properties.items() if name not in OWN}


def _of_one(field: dict[str, Any]) -> dict[str, Any]:
    description = {"description": field["description"]}
    limits = {name: field[name] for name in CONSTRAINTS if name in field}
    if limits.get("enum") == ["on", "off"]:  # unquoted, YAML reads these as truth values
        limits = {"enum": ["on", "off", True, False]}
    if limits.get("type") == "array":  # or one string with commas, as in the environment
        items = {name: field["items"][name] for name in CONSTRAINTS if name in field["items"]}
        limits = {"type": ["string", "array"], "items": items}
    return description | limits


def written() -> dict[str, Any]:
    """The whole schema, as it stands in the file."""
    return dict(json.loads(PATH.read_text()))


if __name__ == "__main__":
    schema = written()
    schema["properties"]["settings"]["properties"] = expected()
    PATH.write_text(json.dumps(schema, indent=2) + "\n")
