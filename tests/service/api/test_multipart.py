"""Forms: images and parameters out of multipart bodies, and the edges of their format."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.api.v1.bodies import Upload
from service.api.v1.schemas import ClassifyParameters
from service.errors import InvalidRequestError, TooLargeError
from tests.service.api.forms import FORM, IMAGE, form, image_part, part, read
from tests.service.api.names import short

pytestmark = pytest.mark.anyio


async def test_a_form_holds_several_images_in_order(pool: ThreadPoolExecutor) -> None:
    images = [IMAGE, b"", b"--XX is no boundary here"]
    body = form(*map(image_part, images), part("r", b"7"))
    assert await read(pool, body, FORM) == Upload(images, ClassifyParameters(r=7))
    with pytest.raises(TooLargeError, match="too many images in one request; allowed are 3"):
        await read(pool, form(*map(image_part, [*images, IMAGE])), FORM)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("Multipart/Form-Data; Boundary=XX", True),
        ('multipart/form-data; boundary="XX"', True),
        ("multipart/form-data; charset=utf-8; boundary=XX", True),
        ("multipart/form-data; boundary=YY", False),
        ("multipart/form-data; boundary=XX; charset=punycode", False),
        ("multipart/form-data; boundary=", False),
        ("multipart/form-data", False),
    ],
)
async def test_a_form_needs_its_boundary(
    pool: ThreadPoolExecutor, content_type: str, boundary: bool
) -> None:
    if boundary:
        assert (await read(pool, form(image_part()), content_type)).images == [IMAGE]
    else:
        with pytest.raises(InvalidRequestError, match="the multipart body cannot be read"):
            await read(pool, form(image_part(), part("tier", b"f\xe4st")), content_type)


@pytest.mark.parametrize("boundary", ["----=_Part_1:2", "a b", "a/b?", "a'b"])
async def test_a_boundary_may_have_any_characters(pool: ThreadPoolExecutor, boundary: str) -> None:
    body = form(image_part()).replace(b"XX", boundary.encode())
    for quoted in (boundary, f'"{boundary}"'):
        content_type = f"multipart/form-data; charset=utf-8; boundary={quoted}"
        assert (await read(pool, body, content_type)).images == [IMAGE]


async def test_images_behind_the_last_that_is_allowed_are_not_looked_at(
    pool: ThreadPoolExecutor,
) -> None:
    for rest in (b"", b"\r\n--XX not a form", part("r", b"7") * 1000):
        with pytest.raises(TooLargeError, match="too many images in one request"):
            await read(pool, b"".join(map(image_part, [b""] * 4)) + rest, FORM)


async def test_data_that_resemble_the_boundary_are_data(pool: ThreadPoolExecutor) -> None:
    images = [b"\r\n--" * 10_000, b"\r\n--X" * 10_000, b"\r" * 10_000 + b"\n"]
    assert (await read(pool, form(*map(image_part, images)), FORM)).images == images


async def test_text_in_a_form_is_utf_8_whatever_its_type_says(pool: ThreadPoolExecutor) -> None:
    for charset in ("utf-8", "latin-1", "punycode", "utf-7", "none"):
        content_type = f"{FORM}; charset={charset}"
        body = form(image_part(), part("model", "Käuzchen-".encode()))
        assert (await read(pool, body, content_type)).parameters.model == "Käuzchen-"


@pytest.mark.parametrize("cut", [4, 10, 30, 60])
async def test_a_form_that_was_cut_off_is_refused(pool: ThreadPoolExecutor, cut: int) -> None:
    with pytest.raises(InvalidRequestError, match="was it cut off"):
        await read(pool, form(image_part(), part("r", b"17"))[:-cut], FORM)


@pytest.mark.parametrize(
    "body",
    [
        b"hello, world",
        b"--XX\r\nhello\r\n\r\n",
        b"--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XX--\r\n",
        form(image_part(), part("model", b"x" * 1025)),
        form(image_part(), part("tier", b"f\xe4st")),
        form(part("x" * 9000, b"")),
        form(part("x", b"", "\r\nX-Long: " + 9000 * "y")),
        form(part("x", b"", 10 * ("\r\nX: " + 1000 * "y"))),
        form(*[part(f"field{i}", b"") for i in range(33)]),
    ],
    ids=short,
)
async def test_a_broken_form_is_refused(pool: ThreadPoolExecutor, body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="the multipart body cannot be read"):
        await read(pool, body, FORM)


@pytest.mark.parametrize("name", ["owl.jpg", "", 'a\\"b;c.jpg', "C:\\dir\\owl.jpg", "Käuzchen.jpg"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_a_file_may_have_any_name(pool: ThreadPoolExecutor, name: str, encoding: str) -> None:
    body = form(part("image", IMAGE, f'; filename="{name}"'))
    body = body.replace(name.encode(), name.encode(encoding))
    assert (await read(pool, body, FORM)).images == [IMAGE]


@pytest.mark.parametrize(("length", "accepted"), [(256, True), (257, False), (5000, False)])
async def test_a_boundary_is_bounded(pool: ThreadPoolExecutor, length: int, accepted: bool) -> None:
    boundary = "b" * length
    body = form(image_part()).replace(b"XX", boundary.encode())
    content_type = f"multipart/form-data; boundary={boundary}"
    if accepted:
        assert (await read(pool, body, content_type)).images == [IMAGE]
    else:
        with pytest.raises(InvalidRequestError, match=f"boundary has {length} .*allowed are 256"):
            await read(pool, body, content_type)


@pytest.mark.parametrize(("num_bytes", "accepted"), [(8192, True), (8193, False)])
async def test_all_headers_of_a_part_are_bounded_together(
    pool: ThreadPoolExecutor, num_bytes: int, accepted: bool
) -> None:
    disposition = 'form-data; name="image"; filename="owl.jpg"'
    rest = num_bytes - len("Content-Disposition") - len(disposition) - 3
    values = ("a" * (rest // 3), "b" * (rest // 3), "c" * (rest - 2 * (rest // 3)))
    more = "".join(f"\r\n{name}: {value}" for name, value in zip("ABC", values, strict=True))
    body = form(part("image", IMAGE, f'; filename="owl.jpg"{more}'))
    if accepted:
        assert (await read(pool, body, FORM)).images == [IMAGE]
    else:
        with pytest.raises(InvalidRequestError, match="headers exceed the maximum size, 8192"):
            await read(pool, body, FORM)


@pytest.mark.parametrize(("more", "accepted"), [("", True), ("n", False)])
async def test_one_header_may_take_all_the_room(
    pool: ThreadPoolExecutor, more: str, accepted: bool
) -> None:
    name = "n" * (8192 - len("Content-Disposition") - len('form-data; name="image"; filename=""'))
    body = form(part("image", IMAGE, f'; filename="{name}{more}"'))
    if accepted:
        assert (await read(pool, body, FORM)).images == [IMAGE]
    else:
        with pytest.raises(InvalidRequestError):
            await read(pool, body, FORM)
