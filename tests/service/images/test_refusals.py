"""A refusal names what came and the way out, and never quotes it."""

import base64
import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from service.errors import ImageRejectedError
from service.images import refusals, rgb
from tests.conftest import BUNDLED

SIDE = 224
BINARY = "--data-binary instead of -d"


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(BUNDLED / "examples" / "owl.jpg") as image:
        return image.resize((160, 120))


def file_of(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def refusal(body: bytes) -> str:
    with pytest.raises(ImageRejectedError) as caught:
        rgb.read(body, SIDE)
    return str(caught.value)


def zip_of(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"content")
    return file.getvalue()


def tar_of(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def ftyp(brand: bytes) -> bytes:
    return struct.pack(">I4s4sI4s", 20, b"ftyp", brand, 0, b"iso2") + bytes(40)


def tiff(tags: dict[int, int], order: str = "<") -> bytes:
    """A TIFF of one directory, whose values are all short."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(tags.items())
    )
    return head + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(100)


def jpeg_of(marker: int, bits: int) -> bytes:
    """The head of a JPEG with one frame."""
    frame = struct.pack(">BHHBBBB", bits, 16, 16, 1, 1, 0x11, 0)
    comment = b"\xff\xfe\0\x04hi"
    return b"\xff\xd8" + comment + struct.pack(">BBH", 0xFF, marker, 2 + len(frame)) + frame


GREY = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1}
KINDS = {
    # what Pillow reads, and nobody means
    "float TIFF": (tiff(GREY | {258: 32, 277: 3, 262: 2, 339: 3}), "3 x 32-bit floating", "send"),
    "float TIFF, MM": (tiff(GREY | {258: 64, 339: 3}, ">"), "1 x 64-bit floating", "8 or 16 bits"),
    "TIFF of 32 bits": (tiff(GREY | {258: 32, 277: 3, 262: 2}), "3 x 32-bit uns", "8 or 16"),
    "LERC": (tiff(GREY | {259: 34887}), "TIFF compressed by LERC", "save it"),
    "DNG": (tiff(GREY | {258: 16, 259: 7, 262: 32803, 50706: 1}), "raw photo .*DNG", "develop it"),
    "NEF": (tiff(GREY | {258: 14, 259: 34713, 262: 32803}), "raw photo .*NEF", "develop it"),
    "odd TIFF": (tiff(GREY | {258: 7, 262: 5}), r"TIFF file of 1 x 7-bit .*\(photom", "send uns"),
    "12-bit JPEG": (jpeg_of(0xC1, 12), "12-bit JPEG", "8 bits a channel"),
    "lossless JPEG": (jpeg_of(0xC3, 8), "lossless JPEG", "baseline JPEG"),
    "hierarchical JPEG": (jpeg_of(0xC5, 8), "hierarchical JPEG", "baseline JPEG"),
    "JPEG-LS": (jpeg_of(0xF7, 8), "JPEG-LS", "baseline JPEG"),
    # pictures
    "JPEG XL": (b"\xff\x0a\xfa\x7f", "JPEG XL", "JPEG or PNG"),
    "JPEG XL in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", "JPEG or PNG"),
    "JPEG 2000": (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000", "JPEG or PNG"),
    "PSD": (b"8BPS\0\1", "Photoshop", "JPEG or PNG"),
    "ICO": (b"\0\0\1\0\1\0", "icon", "JPEG or PNG"),
    "PPM": (b"P6\n2 2\n255\nabcdefghijkl", "Netpbm", "JPEG or PNG"),
    "OpenEXR": (b"\x76\x2f\x31\x01\2\0", "OpenEXR", "JPEG or PNG"),
    "RAF": (b"FUJIFILMCCD-RAW 0201", "raw photo", "develop it"),
    "CR3": (ftyp(b"crx "), "raw photo", "develop it"),
    "DICOM": (bytes(128) + b"DICM", "DICOM", "JPEG or PNG"),
    # documents and drawings
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "PDF document", "render it"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript", "render it"),
    "WMF": (b"\xd7\xcd\xc6\x9a\0\0", "Windows metafile", "render it"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG drawing", "render it"),
    "SVG in XML": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg/>', "SVG drawing", "render it"),
    "HTML": (b"\n<!DOCTYPE html><title>404</title>", "HTML page", "picture itself"),
    "XHTML": (b'<?xml version="1.0"?><html lang="en">', "HTML page", "picture itself"),
    "XML": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "XML text", "send"),
    "docx": (zip_of("[Content_Types].xml"), "Office document", "picture's own file"),
    # archives, films, sound
    "gzip": (gzip.compress(b"x" * 99), "gzip", "unpack it"),
    "ZIP": (zip_of("photo.jpg"), "ZIP archive", "unpack it"),
    "tar": (tar_of("photo.jpg"), "tar archive", "unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "7z archive", "unpack it"),
    "RAR": (b"Rar!\x1a\7\1\0", "RAR archive", "unpack it"),
    "MP4": (ftyp(b"isom"), "MP4", "one frame"),
    "MOV": (ftyp(b"qt  "), "QuickTime", "one frame"),
    "WebM": (b"\x1a\x45\xdf\xa3\x9f", "Matroska or WebM", "one frame"),
    "AVI": (b"RIFF\0\1\0\0AVI LIST", "AVI film", "one frame"),
    "MP3": (b"ID3\4\0\0\0\0", "MP3", "picture's own file"),
    # numbers and programs
    "npy": (b"\x93NUMPY\1\0v\0", r"NumPy array \(.npy\)", "/v2"),
    "npz": (zip_of("image.npy"), "NumPy arrays", "/v2"),
    "pt": (zip_of("archive/data.pkl"), "PyTorch file", "/v2"),
    "pickle": (b"\x80\4\x95\0\0", "Python pickle", "/v2"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5", "/v2"),
    "Parquet": (b"PAR1\x15\4", "Parquet", "/v2"),
    "safetensors": (struct.pack("<Q", 60) + b'{"x":{}}', "safetensors", "/v2"),
    "ELF": (b"\x7fELF\2\1\1", "ELF", "picture's own file"),
    "EXE": (b"MZ\x90\0\3", "program of Windows", "picture's own file"),
    # text
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer", "lfs pull"),
    "JSON": (b'\n{"image": "..."}', "JSON text", "application/json"),
    "JSON with a mark": (b'\xef\xbb\xbf{"image": "..."}', "JSON text", "application/json"),
    "data URI": (b"Data:image/png;base64,iVBORw0KGgo=", "data URI", "send its bytes"),
    "URL": (b"https://example.org/owl.jpg\n", "URL", "not fetched"),
    "form": (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff', "a form", "multipart"),
    "URL-encoded": (b"image=%FF%D8%FF&x=1", "URL-encoded form", "multipart/form-data"),
    "object": (b"[object Blob]", "name of an object", "bytes of the file"),
    "repr": (repr(b"\xff\xd8\xff\xe0").encode(), "Python has written", "bytes of the file"),
    "hex": (b"89504e470d0a1a0a" * 5, "hexadecimal", "bytes of the file"),
    "UTF-16": ("hello".encode("utf-16"), "UTF-16 text", "picture's own file"),
    "text": ("Grüße, BMW".encode(), "plain text", "picture's own file"),
    "text like a BMP": (b"BMW is a car", "plain text", "picture's own file"),
    "zeros": (bytes(5000), "zero bytes", "not written whole"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_names_the_kind_and_the_way_out(kind: str) -> None:
    body, what, way_out = KINDS[kind]
    message = refusal(body)
    assert message.startswith("this is ")
    with pytest.raises(ImageRejectedError, match=f"{what}.*; .*{way_out}"):
        rgb.read(body, SIDE)


BASE64: dict[str, Callable[[bytes], bytes]] = {
    "plain": base64.b64encode,
    "URL-safe": base64.urlsafe_b64encode,
    "in lines": base64.encodebytes,
    "quoted": lambda body: json.dumps(base64.b64encode(body).decode()).encode(),
}


@pytest.mark.parametrize("way", BASE64)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_base64_is_recognised_by_the_picture_in_it(
    file_format: str, way: str, photo: Image.Image
) -> None:
    body = BASE64[way](file_of(photo, file_format))
    assert f"base64 text of a{'n' * (file_format == 'AVIF')} {file_format}".lower() in (
        refusal(body).lower()
    )


@pytest.mark.parametrize("gone", [b"\r\n", b"\r\n\0"])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP"])
def test_files_without_their_newline_bytes_are_recognised(
    file_format: str, gone: bytes, photo: Image.Image
) -> None:
    stripped = file_of(photo, file_format).translate(None, gone)
    message = refusal(stripped)
    assert "newline" in message
    assert BINARY in message


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_files_that_were_read_as_text_are_recognised(file_format: str, photo: Image.Image) -> None:
    message = refusal(file_of(photo, file_format).decode(errors="replace").encode())
    assert "read as text" in message
    assert BINARY in message


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_latin_text_is_recognised_too(file_format: str, photo: Image.Image) -> None:
    message = refusal(file_of(photo, file_format).decode("latin-1").encode())
    assert f"{file_format} that was read as text" in message


def test_newlines_that_were_converted_are_recognised(photo: Image.Image) -> None:
    body = file_of(photo, "PNG")
    for changed in (body.replace(b"\r\n", b"\n"), body.replace(b"\n", b"\r\n")):
        assert "PNG whose newline bytes were converted" in refusal(changed)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_what_is_cut_off_is_named_with_its_length(
    file_format: str, share: float, photo: Image.Image
) -> None:
    body = file_of(photo, file_format)
    cut = body[: int(share * len(body))]
    message = refusal(cut)
    assert message.startswith(f"the {file_format} is damaged and cannot be decoded: ")
    assert message.endswith(f"; {len(cut)} bytes came")


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_a_channel_name_the_format(mode: str) -> None:
    assert "TIFF of 32-bit" in refusal(file_of(Image.new(mode, (8, 8), 1), "TIFF"))


@pytest.mark.parametrize(
    ("file_format", "mode"), [("TIFF", "CMYK"), ("JPEG", "CMYK"), ("MPO", "L")]
)
def test_neighbours_of_what_is_refused_are_read(
    file_format: str, mode: str, photo: Image.Image
) -> None:
    assert rgb.read(file_of(photo.convert(mode), file_format), SIDE).size == photo.size


def test_nothing_of_the_body_is_quoted() -> None:
    secret = "secret-5up3r"
    for body in (
        secret.encode(),
        f'{{"{secret}": 1}}'.encode(),
        f"https://example.org/{secret}".encode(),
        f"%PDF-{secret}".encode(),
        b"\xff\xd8\xff\xfe\0\x20" + secret.encode(),
        b"GIF89a" + secret.encode(),
        b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + secret.encode(),
        b"BM" + secret.encode() * 5,
        zip_of(secret),
    ):
        assert secret not in refusal(body)


def test_any_bytes_get_one_printable_sentence() -> None:
    chance = random.Random(0)
    starts = [signature.start for signature in refusals.PICTURES + refusals.BINARY_FILES]
    for _ in range(300):
        body = chance.choice(starts) + chance.randbytes(chance.randrange(60))
        assert refusals.describe(body).isprintable()
        assert len(refusals.describe(body)) < 400


def test_every_signature_can_be_reached() -> None:
    """No row is hidden by one above it."""
    for table in (refusals.BINARY_FILES, refusals.MANGLED, refusals.PICTURES):
        for place, signature in enumerate(table):
            for earlier in table[:place]:
                assert earlier.at != signature.at or not signature.start.startswith(earlier.start)
