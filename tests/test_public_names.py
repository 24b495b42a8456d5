"""The public face of the library."""

from types import ModuleType

import rapid_core


def test_public_names_are_few_and_all_there() -> None:
    public = {
        name
        for name, value in vars(rapid_core).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(rapid_core.__all__)
    assert len(public) <= 12


def test_every_public_function_and_class_says_what_it_is() -> None:
    for name in rapid_core.__all__:
        assert getattr(rapid_core, name).__doc__, name
