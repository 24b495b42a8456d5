"""Compressed bodies: each encoding undone, up to a limit; every damage refused."""

import contextlib
import gzip
import random
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.open_inference.content_encoding import (
    FREE_BYTES,
    MAX_RATIO,
    PIECE_BYTES,
    pieces,
)
from service.errors import InvalidRequestError, TooLargeError, UnsupportedMediaError
from tests.service.api.names import short
from tests.service.api.open_inference.bodies import inflate


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        *(("identity", bytes), ("Identity", bytes)),
        *(("gzip", gzip.compress), ("GZIP", gzip.compress), (" gzip ", gzip.compress)),
        *(("deflate", zlib.compress), ("Deflate", zlib.compress)),
    ],
    ids=short,
)
@pytest.mark.parametrize("plain", [b"", b"x", bytes(range(256)) * 40])
def test_an_encoding_is_undone_up_to_the_limit(encoding: str, pack: Any, plain: bytes) -> None:
    body = pack(plain)
    assert inflate(body, encoding, len(plain)) == plain
    assert inflate(body, encoding, len(plain) + 1) == plain
    if plain:
        with pytest.raises(TooLargeError, match=f"allowed are {len(plain) - 1} bytes"):
            inflate(body, encoding, len(plain) - 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_not_inflated(encoding: str) -> None:
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding](bytes(10_000_000))
    with pytest.raises(TooLargeError, match="allowed are 1000 bytes, inflated"):
        inflate(bomb, encoding, 1000)
    with pytest.raises(TooLargeError):  # its end is never looked at
        inflate(bomb[:500] + b"no end", encoding, 1000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_the_pieces_are_small_and_together_the_body(encoding: str) -> None:
    noise = random.Random(0).randbytes(3 * PIECE_BYTES)
    body = noise + bytes(PIECE_BYTES) + noise[:1000]
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding](body)
    found = list(pieces(packed, encoding, len(body)))
    assert b"".join(found) == body
    assert min(map(len, found)) > 0
    assert max(map(len, found)) <= PIECE_BYTES
    with pytest.raises(InvalidRequestError, match=f"the body has {len(noise)} bytes after its"):
        list(pieces(packed + noise, encoding, len(body)))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_few_bytes_do_not_become_very_many(encoding: str) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    assert len(inflate(pack(bytes(FREE_BYTES)), encoding, 2 * FREE_BYTES)) == FREE_BYTES
    bomb = pack(bytes(FREE_BYTES + 1))
    message = f"more than {FREE_BYTES} bytes and more than {MAX_RATIO} times its {len(bomb)} compr"
    with pytest.raises(TooLargeError, match=message):
        inflate(bomb, encoding, 2 * FREE_BYTES)
    photo_and_zeros = random.Random(0).randbytes(100_000) + bytes(FREE_BYTES + 1)
    found = inflate(pack(photo_and_zeros), encoding, 2 * FREE_BYTES)
    assert found == photo_and_zeros


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip", b"", "no valid gzip data: was it cut off"),
        ("gzip", b"{}", "no valid gzip data: .*incorrect header"),
        ("gzip", gzip.compress(b"{}")[:-1], "was it cut off"),
        ("gzip", gzip.compress(b"{}")[:-8] + bytes(8), "no valid gzip data: .*incorrect data"),
        ("gzip", gzip.compress(b"{}") + b"abc", "the body has 3 bytes after its gzip"),
        ("gzip", gzip.compress(b"{}") * 2, "bytes after its gzip"),
        ("gzip", zlib.compress(b"{}"), "no valid gzip data: .*incorrect header"),
        ("deflate", b"", "no valid deflate data: was it cut off"),
        ("deflate", zlib.compress(b"{}")[:-1], "was it cut off"),
        ("deflate", zlib.compress(b"{}")[:-4] + bytes(4), "incorrect data check"),
        ("deflate", zlib.compress(b"{}") + b"a", "the body has 1 bytes after its deflate"),
        ("deflate", gzip.compress(b"{}"), "no valid deflate data: .*incorrect header"),
        ("deflate", zlib.compress(b"{}")[2:-4], "no valid deflate data"),  # without its container
    ],
    ids=short,
)
def test_damaged_compressed_data_are_refused(encoding: str, body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        inflate(body, encoding, 1000)


@pytest.mark.parametrize("encoding", ["br", "zstd", "", "gzip, deflate", "x" * 5000, "g\u017fip"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaError, match=r"allowed: identity, gzip, deflate") as caught:
        inflate(b"", encoding, 1000)
    assert len(str(caught.value)) < 200


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate"]), st.integers(0, 100))
def test_any_compressed_bytes_are_inflated_or_refused(
    body: bytes, encoding: str, max_bytes: int
) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    packed = pack(body)
    for damaged in (body, packed[:-1] + body, packed[: len(body)], body + packed):
        with contextlib.suppress(InvalidRequestError, TooLargeError):
            assert len(inflate(damaged, encoding, max_bytes)) <= max_bytes
    assert inflate(packed, encoding, len(body)) == body
