"""Grey of 16 bits becomes grey of 8, and keeps what is known about its colours."""

import pytest
from PIL import Image

from service.images.colors import grey

VALUES = [0, 1, 255, 256, 0x4D80, 0x4D81, 0xFF00, 0xFFFF]


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("key", [None, 0, 0x4D80, 0xFFFF])
def test_every_way_gives_the_same(mode: str, inverted: bool, key: int | None) -> None:
    order = "big" if mode == "I;16B" else "little"
    data = b"".join(value.to_bytes(2, order) for value in VALUES)
    image = Image.frombytes(mode, (len(VALUES), 1), data)
    image.info["icc_profile"] = b"a profile"
    wanted = [255 - (value >> 8) if inverted else value >> 8 for value in VALUES]
    if key is not None:
        wanted[VALUES.index(key)] = 255
    seen = grey.to_8_bits(image, bits=16, inverted=inverted, key=key)
    assert (seen.mode, list(seen.tobytes())) == ("L", wanted)
    assert seen.info["icc_profile"] == b"a profile"
