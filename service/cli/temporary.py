"""The folder for temporary files, without which PyTorch cannot be imported."""

import tempfile

from service.errors import SettingsError


def check() -> None:
    """Find the folder, before the imports that take seconds.

    Raises:
        SettingsError: there is none that can be written to.
    """
    try:
        tempfile.gettempdir()
    except OSError as exc:
        raise SettingsError(
            "there is no folder for temporary files, which PyTorch needs: TMPDIR, /tmp, /var/tmp, "
            "/usr/tmp and the present folder cannot be written to, or are full. Mount one at /tmp "
            "(Docker: --tmpfs /tmp, Kubernetes: an emptyDir), or name one by TMPDIR"
        ) from exc
