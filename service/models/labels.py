"""Names of classes and models: one line of text each, as answers, metrics and logs need it."""

import re
import unicodedata
from collections.abc import Sequence

from service.errors import ModelLoadError

BREAKS = {"Cc", "Cs", "Zl", "Zp"}
"""categories of Unicode: control characters, lone surrogates, separators of lines, of paragraphs"""
REORDERS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""characters that let a text be shown in another order than it has"""


def is_one_line(text: str) -> bool:
    """Whether a text is one line, which everybody sees alike."""
    breaks = any(unicodedata.category(character) in BREAKS for character in text)
    return not (breaks or REORDERS.search(text))


def check(labels: Sequence[object]) -> tuple[str, ...]:
    """The labels of a model.

    Raises:
        ModelLoadError: one is no text, or has characters that could do harm.
    """
    checked = []
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not is_one_line(label):
            raise ModelLoadError(
                f"label {index} of the model, {label!a}, is not one line of text: take control "
                "characters and line breaks out of label_names and label_descriptions in its "
                "config.json"
            )
        checked.append(label)
    return tuple(checked)
