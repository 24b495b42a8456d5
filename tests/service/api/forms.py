"""Bodies for the tests of both kinds of them, forms and others, and how a test reads one."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.datastructures import Headers

from service.api.v1.bodies import Upload, parse

IMAGE = bytes(range(256))
FORM = "multipart/form-data; boundary=XX"


async def read(
    pool: ThreadPoolExecutor, body: bytes, content_type: str | None, query: str = ""
) -> Upload:
    headers = Headers({} if content_type is None else {"Content-Type": content_type})
    pairs = [(name, value) for name, _, value in (pair.partition("=") for pair in query.split())]
    in_a_thread = partial(asyncio.get_running_loop().run_in_executor, pool)
    return await parse(body, headers, pairs, max_images=3, in_a_thread=in_a_thread)


def part(name: str, value: bytes, more: str = "") -> bytes:
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


def image_part(image: bytes = IMAGE) -> bytes:
    return part("image", image, '; filename="owl.jpg"\r\nContent-Type: image/jpeg')
