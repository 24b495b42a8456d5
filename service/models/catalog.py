"""All loaded models by name, and how one entry of RAPID_MODELS is loaded."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.backends.placement import Placement
from service.errors import ModelLoadError, ModelNotFoundError
from service.images.options import COLOR, Color, Resize
from service.models import labels, timm_models
from service.models.served import ServedModel

MODEL_NAME = re.compile(r"[\w.:@+-]+", re.ASCII)


class Models:
    """All loaded models by name; the first is the default."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}

    def add(self, model: ServedModel) -> None:
        """Serve one more model.

        Raises:
            ModelLoadError: another one has the same name.
        """
        if model.name in self._models:
            raise ModelLoadError(
                f"two models are called {model.name!r}; give one another name: `other-name=...`"
            )
        self._models[model.name] = model

    def find(self, name: str | None) -> ServedModel:
        """The model of that name, or the first one for None.

        Raises:
            ModelNotFoundError: no such model.
        """
        name = next(iter(self._models), None) if name is None else name
        if name not in self._models:
            raise ModelNotFoundError(
                f"no model {name!r} here; there are: {', '.join(self._models)}"
            )
        return self._models[name]

    def __iter__(self) -> Iterator[ServedModel]:
        """In the order of the setting."""
        return iter(self._models.values())


def name_and_spec(setting: str) -> tuple[str, str]:
    """Split one entry of RAPID_MODELS: `name=spec`, or a spec that names itself.

    A folder or a repository is called by the last part of its path.

    Raises:
        ModelLoadError: the name has characters that a path of the API cannot hold.
    """
    name, found, spec = (part.strip() for part in setting.partition("="))
    if found:
        if not MODEL_NAME.fullmatch(name):
            raise ModelLoadError(
                f"{name!r} cannot be a model's name; allowed are letters, digits and . _ - + @ :"
            )
        return name, spec
    name = setting.rstrip("/").rpartition("/")[-1]
    if not labels.is_one_line(name):
        raise ModelLoadError(f"{name!a} cannot be a model's name; give it another: `name=folder`")
    return name, setting


def probe_folder(setting: str, probe_data: Sequence[str]) -> Path | None:
    """The labelled pictures for one entry of RAPID_MODELS; None if there are none.

    Args:
        setting: the entry.
        probe_data: RAPID_PROBE_DATA, whose folders go before a model's own.

    Raises:
        ModelLoadError: a name cannot be a model's.
    """
    name, spec = name_and_spec(setting)
    given = dict(map(name_and_spec, probe_data))
    return Path(given[name]) if name in given else timm_models.probe_folder(spec)


def load(
    setting: str, placement: Placement, resize: Resize = "pillow", color: Color = COLOR
) -> ServedModel:
    """Load one entry of RAPID_MODELS.

    Args:
        setting: a name and where the model is.
        placement: where and how it computes.
        resize: the library that resizes pictures to the input size of the model.
        color: what becomes of a picture's colour profile.

    Raises:
        ModelLoadError: it cannot be served.
    """
    name, spec = name_and_spec(setting)
    loaded = timm_models.load(spec)
    if resize == "torch":
        loaded = loaded._replace(transform=timm_models.resizing_quickly(loaded.transform))
    return ServedModel(name, loaded, placement, color)
