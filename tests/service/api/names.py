"""How the rows of a table are called."""

import re


def short(value: object) -> str:
    """A readable name for a row of a table.

    It is the same in every process, as pytest-xdist needs it: without addresses, and without the
    date that is in compressed bytes.
    """
    if isinstance(value, bytes) and len(value) > 16:
        return f"{len(value)} bytes"
    return re.sub(r" at 0x\w+", "", repr(value))[:40]
