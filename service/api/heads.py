"""What a head must have and may have, by RFC 9112 and by limits of this service."""

import re
from collections.abc import Sequence

MAX_HEADER_LINES = 128
"""a browser sends about 20 and a few proxies add as many. Each line costs time with every look at
the headers."""
HOST = re.compile(rb"([\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?", re.ASCII)
"""a name, an IPv4 or IPv6 address, or nothing, and a port (RFC 3986, 3.2.2)"""


def fault_of(version: str, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Why a head must be answered with 400 (RFC 9112, 3.2); None if it need not.

    Args:
        version: of HTTP.
        headers: names in small letters, and values.
    """
    hosts = [value for name, value in headers if name == b"host"]
    if not hosts:
        return "The request needs a Host header." if version == "1.1" else None
    if len(hosts) > 1:
        return "A request has one Host header, not several."
    if not HOST.fullmatch(hosts[0].strip(b" \t")):
        return "The Host header is no name or address, with a port or without."
    return None
