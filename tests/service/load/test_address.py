"""Load goes to this machine, unless it is said that it may go to another."""

import pytest

from service.load.address import parse_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.9.9.9:1/", "http://127.9.9.9:1"),
        ("http://localhost:8000/docs?a=b", "http://localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_url_of_this_machine_is_accepted(text: str, url: str) -> None:
    assert str(parse_url(text)) == url


@pytest.mark.parametrize(
    "text",
    [
        "http://example.com",
        "http://127.0.0.1@example.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1\\@example.com",
        "http://0.0.0.0:8000",
        "http://10.0.0.1:8000",
        "http://2130706433:8000",
        "https://127.0.0.1",
        "127.0.0.1:8000",
        "",
    ],
)
def test_any_other_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not this machine|not a URL|Invalid URL"):
        parse_url(text)


def test_another_machine_has_to_be_allowed() -> None:
    with pytest.raises(ValueError, match="--allow-remote sends it to another machine"):
        parse_url("http://staging.example")
    for text in ("https://me:secret@staging.example/docs", "http://10.0.0.1:8000"):
        url = parse_url(text, allow_remote=True)
        assert url.host in text
        assert str(url) == f"{url.scheme}://{url.host}" + (":8000" if url.port == 8000 else "")
    for text in ("ftp://staging.example", "staging.example", ""):
        with pytest.raises(ValueError, match="is not a URL"):
            parse_url(text, allow_remote=True)
