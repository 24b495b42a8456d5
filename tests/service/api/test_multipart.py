"""Forms: images and parameters out of multipart bodies, and the edges of their format."""

import base64
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.api.v1 import multipart
from service.api.v1.bodies import Upload
from service.api.v1.schemas import ClassifyParameters
from service.errors import InvalidParameterError, InvalidRequestError, TooLargeError
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


@pytest.mark.parametrize(
    "more",
    [
        "; filename*=utf-8''%D0%A1.jpg",
        "; FileName* = utf-8''owl",
        "\r\nContent-Type: image/jpeg",
        "\r\nContent-Type: application/octet-stream",
        "",
        '; filename="owl.jpg"\r\nContent-Type: text/plain',
        '; filename="owl.jpg"\r\nContent-Transfer-Encoding: Binary',
    ],
)
@pytest.mark.parametrize("size", [200, 3000])
async def test_a_part_that_begins_as_no_text_is_an_image(
    pool: ThreadPoolExecutor, more: str, size: int
) -> None:
    image = (IMAGE * 12)[:size]
    body = form(part("image", image, more), part("r", b"3", "\r\nContent-Type: text/plain"))
    assert await read(pool, body, FORM) == Upload([image], ClassifyParameters(r=3))
    for num_images, accepted in ((3, True), (4, False)):
        parts = [part("image", image, more)] * num_images
        if accepted:
            assert (await read(pool, form(*parts), FORM)).images == [image] * num_images
        else:
            with pytest.raises(TooLargeError, match="too many images"):
                await read(pool, form(*parts), FORM)


async def test_a_file_s_name_in_either_form_makes_a_part_a_file(pool: ThreadPoolExecutor) -> None:
    for more in ("; filename*=utf-8''owl", '; filename="owl"', '; filename=""'):
        assert (await read(pool, form(part("image", b"<html>", more)), FORM)).images == [b"<html>"]
        with pytest.raises(InvalidParameterError, match="only images are sent as files"):
            await read(pool, form(image_part(), part("r", b"1", more)), FORM)


def test_files_are_not_counted_as_fields() -> None:
    parts = [part("image", b"\x00", more) for more in ("", '; filename=""', '; filename="a"')] * 20
    assert len(multipart.read(form(*parts), FORM, max_images=60)) == 60


@pytest.mark.parametrize("name", ["image", "photo", "image[]"])
@pytest.mark.parametrize("type_", ["", "\r\nContent-Type: image/jpeg"])
async def test_an_image_as_text_is_refused_whatever_its_length(
    pool: ThreadPoolExecutor, name: str, type_: str
) -> None:
    for size in (100, 1024, 1025, 100_000) if name == "image" else (1025, 100_000):
        with pytest.raises(InvalidParameterError, match="images go into file fields named 'image'"):
            await read(pool, form(part(name, b"A" * size, type_)), FORM)


NOTHING_CHOSEN = part("image", b"", '; filename=""\r\nContent-Type: application/octet-stream')


async def test_a_file_field_in_which_nothing_was_chosen_is_no_image(
    pool: ThreadPoolExecutor,
) -> None:
    for empty in (NOTHING_CHOSEN, part("image", b"")):
        body = form(empty, image_part(), empty, image_part(), image_part())
        assert (await read(pool, body, FORM)).images == [IMAGE] * 3
        with pytest.raises(InvalidParameterError, match="send a file field 'image' that is not em"):
            await read(pool, form(empty), FORM)
    with pytest.raises(InvalidRequestError, match="more than 32 fields"):
        await read(pool, form(*[NOTHING_CHOSEN] * 33), FORM)


BASE64 = "\r\nContent-Transfer-Encoding: BASE64"


async def test_a_part_in_base64_is_decoded_and_other_encodings_are_refused(
    pool: ThreadPoolExecutor,
) -> None:
    lines = base64.encodebytes(IMAGE)
    body = form(part("image", lines, f'; filename="a"{BASE64}'), part("r", b"Nw==", BASE64))
    assert await read(pool, body, FORM) == Upload([IMAGE], ClassifyParameters(r=7))
    for data, encoding, message in (
        (lines, "quoted-printable", "'quoted-printable'; send its bytes as they are"),
        (IMAGE, "base64", "a part is no valid base64"),
    ):
        more = f'; filename="a"\r\nContent-Transfer-Encoding: {encoding}'
        with pytest.raises(InvalidRequestError, match=message):
            await read(pool, form(part("image", data, more)), FORM)


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
