"""How files begin that are not read, what they are called, and what to send instead. Data only.

Source: the formats' own specifications; a kind is listed if people send it for a picture.
"""

from typing import NamedTuple

AS_PICTURE = "save it as JPEG or PNG"
UNPACKED = "unpack it, and send the picture that is in it"
ONE_FRAME = "send one frame of it as JPEG or PNG"
NO_PICTURE = "send the picture's own file"
RENDERED = "render it, and send that as JPEG or PNG"
DEVELOPED = "develop it, and send that as JPEG or PNG"
NUMBERS = "tensors go to /v2 as numbers; here, " + AS_PICTURE
THE_BYTES = "send the bytes of the file as they are"
AS_JSON = 'decode it and send the bytes, or send JSON: {"image": "<base64>"}'
BINARY = "send it as binary data, with curl by --data-binary instead of -d"


class Signature(NamedTuple):
    """How files of one kind begin."""

    start: bytes
    what: str
    """what it is, with its article."""
    way_out: str
    at: int = 0
    """where in the file `start` stands."""


BINARY_FILES = (
    # pictures that no decoder here reads
    Signature(b"\xff\x0a", "a JPEG XL picture", AS_PICTURE),
    Signature(b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture", AS_PICTURE),
    Signature(b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture", AS_PICTURE),
    Signature(b"\xff\x4f\xff\x51", "a JPEG 2000 picture", AS_PICTURE),
    Signature(b"II\xbc\x01", "a JPEG XR picture", AS_PICTURE),
    Signature(b"8BPS", "a Photoshop document (PSD)", AS_PICTURE),
    Signature(b"gimp xcf", "a GIMP document (XCF)", AS_PICTURE),
    Signature(b"\0\0\1\0", "an icon (ICO)", AS_PICTURE),
    Signature(b"\0\0\2\0", "a cursor (CUR) or a TGA picture", AS_PICTURE),
    Signature(b"icns", "an icon of macOS (ICNS)", AS_PICTURE),
    Signature(b"DDS ", "a DDS texture", AS_PICTURE),
    Signature(b"\xabKTX ", "a KTX texture", AS_PICTURE),
    *(Signature(b"P%d\n" % n, "a Netpbm picture (PPM, PGM, PBM)", AS_PICTURE) for n in range(1, 8)),
    Signature(b"PF\n", "a Netpbm picture of floats (PFM)", AS_PICTURE),
    Signature(b"qoif", "a QOI picture", AS_PICTURE),
    Signature(b"FLIF", "a FLIF picture", AS_PICTURE),
    Signature(b"BPG\xfb", "a BPG picture", AS_PICTURE),
    Signature(b"\x76\x2f\x31\x01", "an OpenEXR picture of floats", AS_PICTURE),
    Signature(b"#?RADIANCE", "a Radiance picture of floats (HDR)", AS_PICTURE),
    Signature(b"#?RGBE", "a Radiance picture of floats (HDR)", AS_PICTURE),
    Signature(b"\x8aMNG", "an MNG animation", ONE_FRAME),
    Signature(b"\x8bJNG", "a JNG picture", AS_PICTURE),
    Signature(b"\x0a\x05\x01", "a PCX picture", AS_PICTURE),
    Signature(b"\x59\xa6\x6a\x95", "a Sun raster picture", AS_PICTURE),
    Signature(b"\x01\xda", "an SGI picture", AS_PICTURE),
    Signature(b"/* XPM */", "an XPM picture", AS_PICTURE),
    Signature(b"SIMPLE  =", "a FITS file", AS_PICTURE),
    Signature(b"DICM", "a DICOM file", DEVELOPED, at=128),
    Signature(b"n+1\0", "a NIfTI file", AS_PICTURE, at=344),
    # drawings and documents
    Signature(b"%PDF", "a PDF document", RENDERED),
    Signature(b"%!PS", "PostScript (PS, EPS)", RENDERED),
    Signature(b"\xc5\xd0\xd3\xc6", "PostScript (EPS)", RENDERED),
    Signature(b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)", RENDERED),
    Signature(b"\1\0\x09\0\0\3", "a Windows metafile (WMF)", RENDERED),
    Signature(b" EMF", "a Windows metafile (EMF)", RENDERED, at=40),
    Signature(b"AT&TFORM", "a DjVu document", RENDERED),
    Signature(b"{\\rtf", "an RTF document", NO_PICTURE),
    Signature(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", NO_PICTURE),
    Signature(b"bplist00", "a property list of macOS", NO_PICTURE),
    Signature(b"SQLite format 3", "an SQLite database", NO_PICTURE),
    # raw photos that are no TIFF
    Signature(b"FUJIFILMCCD-RAW", "a raw photo (RAF)", DEVELOPED),
    Signature(b"IIRO", "a raw photo (ORF)", DEVELOPED),
    Signature(b"IIRS", "a raw photo (ORF)", DEVELOPED),
    Signature(b"MMOR", "a raw photo (ORF)", DEVELOPED),
    Signature(b"IIU\0", "a raw photo (RW2)", DEVELOPED),
    Signature(b"HEAPCCDR", "a raw photo (CRW)", DEVELOPED, at=6),
    Signature(b"FOVb", "a raw photo (X3F)", DEVELOPED),
    Signature(b"\0MRM", "a raw photo (MRW)", DEVELOPED),
    # archives
    Signature(b"PK\3\4", "a ZIP archive", UNPACKED),
    Signature(b"PK\5\6", "an empty ZIP archive", UNPACKED),
    Signature(b"\x1f\x8b", "gzip data", UNPACKED),
    Signature(b"BZh", "bzip2 data", UNPACKED),
    Signature(b"\xfd7zXZ\0", "xz data", UNPACKED),
    Signature(b"\x28\xb5\x2f\xfd", "Zstandard data", UNPACKED),
    Signature(b"\x04\x22\x4d\x18", "LZ4 data", UNPACKED),
    Signature(b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACKED),
    Signature(b"Rar!\x1a\7", "a RAR archive", UNPACKED),
    Signature(b"ustar", "a tar archive", UNPACKED, at=257),
    Signature(b"MSCF", "a CAB archive", UNPACKED),
    # films and sound
    Signature(b"\x1a\x45\xdf\xa3", "a Matroska or WebM film", ONE_FRAME),
    Signature(b"AVI ", "an AVI film", ONE_FRAME, at=8),
    Signature(b"\0\0\1\xba", "an MPEG film", ONE_FRAME),
    Signature(b"\0\0\1\xb3", "an MPEG film", ONE_FRAME),
    Signature(b"FLV\1", "a Flash film", ONE_FRAME),
    Signature(b"FWS", "a Flash film", ONE_FRAME),
    Signature(b"CWS", "a Flash film", ONE_FRAME),
    Signature(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media film", ONE_FRAME),
    Signature(b"moov", "a QuickTime film", ONE_FRAME, at=4),
    Signature(b"mdat", "a QuickTime film", ONE_FRAME, at=4),
    Signature(b"WAVE", "sound (WAV)", NO_PICTURE, at=8),
    Signature(b"ID3", "sound (MP3)", NO_PICTURE),
    Signature(b"\xff\xfb", "sound (MP3)", NO_PICTURE),
    Signature(b"\xff\xf3", "sound (MP3)", NO_PICTURE),
    Signature(b"OggS", "sound or a film (Ogg)", NO_PICTURE),
    Signature(b"fLaC", "sound (FLAC)", NO_PICTURE),
    Signature(b"MThd", "music (MIDI)", NO_PICTURE),
    # numbers
    Signature(b"\x93NUMPY", "a NumPy array (.npy)", NUMBERS),
    Signature(b"\x89HDF\r\n\x1a\n", "an HDF5 file", NUMBERS),
    Signature(b"CDF\1", "a NetCDF file", NUMBERS),
    Signature(b"MATLAB 5.0", "a MATLAB file", NUMBERS),
    Signature(b"PAR1", "a Parquet file", NUMBERS),
    Signature(b"ARROW1", "an Arrow file", NUMBERS),
    Signature(b"\x80\2", "a Python pickle", NUMBERS),
    Signature(b"\x80\3", "a Python pickle", NUMBERS),
    Signature(b"\x80\4", "a Python pickle", NUMBERS),
    Signature(b"\x80\5", "a Python pickle", NUMBERS),
    Signature(b'{"', "a safetensors file", NUMBERS, at=8),
    # programs and fonts
    Signature(b"\x7fELF", "a program (ELF)", NO_PICTURE),
    Signature(b"MZ", "a program of Windows (EXE, DLL)", NO_PICTURE),
    Signature(b"\xcf\xfa\xed\xfe", "a program of macOS (Mach-O)", NO_PICTURE),
    Signature(b"\xca\xfe\xba\xbe", "a Java class or a program of macOS", NO_PICTURE),
    Signature(b"\0asm", "a WebAssembly program", NO_PICTURE),
    Signature(b"wOF", "a font (WOFF)", NO_PICTURE),
    Signature(b"OTTO", "a font (OpenType)", NO_PICTURE),
    Signature(b"\0\1\0\0\0", "a font (TrueType)", NO_PICTURE),
    # text in two bytes a character
    Signature(b"\xff\xfe", "UTF-16 text", NO_PICTURE),
    Signature(b"\xfe\xff", "UTF-16 text", NO_PICTURE),
)
"""The first one that fits counts."""

IN_A_ZIP = {
    b"archive/data.pkl": ("a PyTorch file (.pt)", NUMBERS),
    b"/data.pkl": ("a PyTorch file (.pt)", NUMBERS),
    b".npy": ("NumPy arrays (.npz)", NUMBERS),
    b"[Content_Types].xml": ("an Office document", NO_PICTURE),
    b"word/": ("an Office document", NO_PICTURE),
    b"ppt/": ("an Office document", NO_PICTURE),
    b"xl/": ("an Office document", NO_PICTURE),
    b"application/vnd.oasis": ("an OpenDocument file", NO_PICTURE),
    b"application/epub+zip": ("an EPUB book", NO_PICTURE),
    b"META-INF/": ("a Java archive or an app", NO_PICTURE),
}
"""what stands in the first entries of a ZIP -> what it is, and what to send instead"""

FILMS = {b"crx ": ("a raw photo (CR3)", DEVELOPED), b"M4A ": ("sound (M4A)", NO_PICTURE)}
"""brand after `ftyp` -> what it is, if it is no film"""
FILM = ("an MP4 or QuickTime film", ONE_FRAME)

MANGLED = (
    Signature(b"\x89PNG\x1a", "a PNG whose newline bytes are gone", BINARY),
    Signature(b"\x89PNG\n\x1a", "a PNG whose newline bytes were converted", BINARY),
    Signature(b"\x89PNG\r\r\n", "a PNG whose newline bytes were converted", BINARY),
    Signature(b"\x89PNG\r\n\x1a\r\n", "a PNG whose newline bytes were converted", BINARY),
    Signature(b"\tPNG\r\n", "a PNG that has lost its eighth bits", BINARY),
    Signature(b"\x10JFIF", "a JPEG whose newline and zero bytes are gone", BINARY, at=4),
    Signature(b"\xc2\x89PNG", "a PNG that was read as text", BINARY),
    Signature(b"\xc3\xbf\xc3\x98\xc3\xbf", "a JPEG that was read as text", BINARY),
)
"""pictures that were damaged on their way"""

PICTURES = (
    Signature(b"\xff\xd8", "JPEG", ""),
    Signature(b"\x89PNG\r\n\x1a\n", "PNG", ""),
    Signature(b"GIF8", "GIF", ""),
    Signature(b"WEBP", "WEBP", "", at=8),
    Signature(b"BM", "BMP", ""),
    Signature(b"II*\0", "TIFF", ""),
    Signature(b"MM\0*", "TIFF", ""),
    Signature(b"II+\0", "TIFF", ""),
    Signature(b"MM\0+", "TIFF", ""),
)
"""the formats that are read; AVIF and HEIC begin as films do"""

IN_BASE64 = {
    b"/9j/": "a JPEG",
    b"_9j_": "a JPEG",
    b"iVBORw0KGgo": "a PNG",
    b"R0lGOD": "a GIF",
    b"UklGR": "a WebP",
    b"Qk0": "a BMP",
    b"Qk1": "a BMP",
    b"Qk2": "a BMP",
    b"Qk3": "a BMP",
    b"SUkqA": "a TIFF",
    b"TU0AK": "a TIFF",
    b"AAAA": "an AVIF or a HEIC",
}
"""how base64 of a picture begins -> what it is"""

FORM = ("a form", "send it with its own Content-Type: multipart/form-data; boundary=...")
HTML = ("an HTML page", "send the picture itself, not the page")
TEXTS = (
    (b"<!doctype html", *HTML),
    (b"version https://git-lfs", "a Git LFS pointer", "get the file itself with git lfs pull"),
    (b"../.git/annex", "a git-annex pointer", "get the file itself with git annex get"),
    (b"/annex/objects/", "a git-annex pointer", "get the file itself with git annex get"),
    (b"data:", "a data URI", 'send its bytes, or send JSON: {"image": "<data URI>"}'),
    (b"[object ", "the name of an object instead of its content", THE_BYTES),
    (b"[b@", "the name of an object instead of its content", THE_BYTES),
    (b"<_io.", "the name of an object instead of its content", THE_BYTES),
    (b"<pil.", "the name of an object instead of its content", THE_BYTES),
    (b"<http", "the name of an object instead of its content", THE_BYTES),
    (b"b'", "bytes that Python has written as text", THE_BYTES),
    (b'b"', "bytes that Python has written as text", THE_BYTES),
    (b"<?xml", "XML text", RENDERED),
    (b"{", "JSON text", "send it with Content-Type: application/json"),
    (b"[", "JSON text", 'send an object with Content-Type: application/json: {"image": ...}'),
    (b"<", "XML or HTML text", NO_PICTURE),
)
"""how text begins, in small letters -> what it is, and what to send instead"""
