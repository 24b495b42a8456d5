"""A decoding process: it takes image files from the service, and gives RGB pixels back.

It holds no model and no PyTorch. The service ends it if a picture takes too long. The system
refuses it more memory than it may have. A picture that crashes a decoder crashes nothing else.

    python -m service.images.processes.worker FILE_DESCRIPTOR MAX_BYTES
"""

import resource
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from service.errors import ServiceError, TooLargeError
from service.images import rgb
from service.images.processes import memory, wire
from service.images.processes.order import Order

LONGEST_FILE = 2**32 - 1
FIRST_VICTIM = "1000"
"""`oom_score_adj`: if the machine runs out of memory, this process goes, and not the service"""


def main(descriptor: int, max_bytes: int) -> None:
    """Decode pictures until the service closes the connection."""
    _protect(max_bytes)
    Image.preinit()  # now, and not while the first picture waits
    with socket.socket(fileno=descriptor) as service, suppress(wire.SilenceError, OSError):
        wire.send(service, {"ready": True})
        while True:
            message, body = wire.receive(service, LONGEST_FILE)
            wire.send(service, *_answer(Order.of_message(message), bytes(body)))


def _answer(order: Order, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode one picture: what to send back, and the RGB pixels (H, W, 3) if there are any."""
    needed = memory.needed_to_open(body)

    def check(image: Image.Image) -> None:
        nonlocal needed
        needed = max(needed, memory.needed(image, order.resize_side, len(body)))
        if needed > order.max_bytes:
            raise TooLargeError("it needs more memory than it may have here")

    try:
        if needed > order.max_bytes:
            return {"needs": needed}, b""
        picture = rgb.read(
            *(body, order.resize_side, order.max_pixels), color=order.color, before_pixels=check
        )
        if order.cut and (pixels := order.cut.columns(picture)):
            return {"columns_of": picture.size}, pixels
        if order.shrink:
            picture = order.shrink(picture)
        return {"size": picture.size}, picture.tobytes()
    except ServiceError as exc:
        if needed > order.max_bytes:
            return {"needs": needed}, b""
        return {"error": exc.code, "text": str(exc)}, b""
    except MemoryError:
        return {"error": TooLargeError.code, "text": rgb.NO_MEMORY}, b""


def _protect(max_bytes: int) -> None:
    """Take no more memory than `max_bytes` from here on, write no core file, and go first."""
    with suppress(OSError, ValueError):  # not on every system; the service watches the time anyhow
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        limit = pages * resource.getpagesize() + max_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        Path("/proc/self/oom_score_adj").write_text(FIRST_VICTIM)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
