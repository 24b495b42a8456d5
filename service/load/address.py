"""Which service may be sent load to."""

import ipaddress

from yarl import URL


def parse_url(text: str, *, allow_remote: bool = False) -> URL:
    """The root of a service, without path and password.

    The client parses the URL with the same library, so that both see the same host.

    Args:
        text: as http://127.0.0.1:8000.
        allow_remote: also of another machine, and then by https as well.

    Raises:
        ValueError: it is no URL, or not of this machine.
    """
    url = URL(text)
    schemes = ("http", "https") if allow_remote else ("http",)
    if url.scheme not in schemes or url.host is None:
        raise ValueError(f"{text!r} is not a URL like http://127.0.0.1:8000")
    if not (allow_remote or is_loopback(url.host)):
        raise ValueError(
            f"{url.host} is not this machine; load goes to 127.0.0.1, [::1] or localhost only, so "
            "that it can hurt nobody else. --allow-remote sends it to another machine: do that to "
            "a service of your own, which you may overload"
        )
    return url.origin()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
