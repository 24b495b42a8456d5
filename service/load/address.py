"""The URL of the service, which has to be on this machine unless remote ones are allowed."""

import ipaddress

from yarl import URL


def parse_url(text: str, *, allow_remote: bool = False) -> URL:
    """The root URL of a service, without path and password.

    The client parses the URL with the same library, so this check and the client see the same host.

    Args:
        text: for example http://127.0.0.1:8000.
        allow_remote: also accept other machines, and https.

    Raises:
        ValueError: the text is no URL, or not one of this machine.
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
