# SPDX-License-Identifier: Apache-2.0
"""Reads a picture of any accepted format as upright RGB: the same pixels for everybody.

Training, the converters, lint and owl.hf share this module, and a copy of it travels with exported
folders. What is done for each format is a table in docs/data_format.md.
"""

import io
import re
import zlib
from collections.abc import Collection, Iterator
from importlib.util import find_spec

from PIL import ExifTags, Image, UnidentifiedImageError, features

from owl.portable.pixels_owl import MODES_WITHOUT_RANGE, to_rgb

MAX_PIXELS = 80_000_000  # below the size at which Pillow warns of a decompression bomb
MAX_FILE_BYTES = 256 << 20
"""A larger file is a mistake or an attack; the pixel limits would refuse it anyway."""
MIN_SIDE = 4
MAX_SIDE = 16384
MAX_ASPECT = 200

SUFFIXES = {
    "JPEG": ("jpg", "jpeg"),
    "PNG": ("png",),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "TIFF": ("tif", "tiff"),
    "AVIF": ("avif",),
}
"""Accepted formats by Pillow's names, and the suffixes of their files, the usual one first.

Pillow opens many more, some through outside programs; no file may reach those.
"""
HAS_AVIF = bool(find_spec("PIL.AvifImagePlugin")) and features.check("avif")
FORMATS = tuple(name for name in SUFFIXES if name != "AVIF" or HAS_AVIF)
"""Those that the installed Pillow decodes: AVIF since 11.3, where it was built with it."""

SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation."""

PNG_START = b"\x89PNG\r\n\x1a\n"
XMP_START = b"http://ns.adobe.com/xap/1.0/\x00"
XMP_KEY = "XML:com.adobe.xmp"
PROFILE_KEYS = ("Raw profile type exif", "Raw profile type APP1", "Raw profile type xmp")
"""Texts of a PNG in which ImageMagick and exiftool keep EXIF and XMP, in hexadecimal."""
NOTE_CHUNKS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
FRAME_CHUNKS = (b"acTL", b"fcTL", b"fdAT")
MAX_NOTE_BYTES = 1 << 20
"""Of a note of a PNG that may hold an orientation no more than this is unpacked."""


class PictureError(ValueError):
    """A picture cannot be used.

    Args:
        code: the rule's stable error code, such as "E308" (docs/data_format.md lists them).
        message: value and rule.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


def check_size(width: int, height: int) -> None:
    """Raise PictureError E309 for a size that training refuses: too small, too large, too long."""
    long, short = max(width, height), min(width, height)
    if short < MIN_SIDE or long > MAX_SIDE:
        raise PictureError(
            "E309", f"a picture of {width}x{height}: each side must be {MIN_SIDE}..{MAX_SIDE}."
        )
    _check_pixels(width, height)
    if long > MAX_ASPECT * short:
        raise PictureError(
            "E309", f"a picture of {width}x{height} is over {MAX_ASPECT} times as long as wide."
        )


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(
            "E309", f"a picture of {width}x{height} has more than {MAX_PIXELS} pixels: shrink it."
        )


def open_picture(data: bytes, *, animated: bool = False) -> Image.Image:
    """Open a picture without decoding its pixels.

    Args:
        data: a file of one of FORMATS, told from its bytes: wrong suffixes are common.
        animated: keep the frames behind the first of a PNG.

    Raises:
        PictureError: E307 of no accepted format, E308 a damaged header, E309 far too large.
    """
    notes: dict[str, bytes | str] = {}
    stored = data
    if data.startswith(PNG_START):
        stored, notes = _without_notes(data, FRAME_CHUNKS if animated else ())
    try:
        image = Image.open(io.BytesIO(stored), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PictureError(
            "E307",
            f"the bytes ({data[:8]!r}...) are none of {', '.join(FORMATS)}: convert the picture.",
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError("E309", f"{error}") from error
    except Exception as error:  # a broken header: Pillow raises what the codec's parser meets
        raise PictureError("E308", f"the picture's header cannot be read: {error}.") from error
    image.info.update(notes)
    return image


def picture_suffix(data: bytes) -> str:
    """Return the usual suffix of a file's format. Raises PictureError as open_picture does."""
    with open_picture(data) as image:
        # The one format under which Pillow opens another: a JPEG that holds several.
        return SUFFIXES["JPEG" if image.format == "MPO" else str(image.format)][0]


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as displayed, of a picture whose pixels need not be decoded.

    Raises:
        PictureError: E309 too many pixels, E310 a mode without a defined range.
    """
    _check(image)
    width, height = image.size
    if ExifTags.Base.Orientation in getattr(image, "tag_v2", ()):
        return width, height  # Pillow swaps the size itself by this tag of a TIFF
    return (height, width) if find_orientation(image) in SIDEWAYS else (width, height)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode a picture to RGB, turned as it is displayed: of an animation the current frame.

    Args:
        image: from open_picture, or opened by anyone else.

    Raises:
        PictureError: E308 it cannot be decoded, E309 and E310 as shown_size.
    """
    _check(image)  # before any memory is spent on pixels
    try:
        image.load()
        orientation = find_orientation(image)  # now: loading turns a TIFF, and says so
        upright = image.convert("RGB") if _has_unused_alpha(image) else to_rgb(image)
    except Exception as error:  # damaged bytes: Pillow raises whatever its parsers meet
        raise PictureError("E308", f"the picture cannot be decoded: {error}.") from error
    return upright.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else upright


def _check(image: Image.Image) -> None:
    if image.format == "EPS":
        raise PictureError("E307", "an EPS picture is a program, which Ghostscript would run.")
    if image.mode in MODES_WITHOUT_RANGE:
        raise PictureError(
            "E310", f"a picture of mode {image.mode} has no defined range: store 8 or 16 bit."
        )
    _check_pixels(*image.size)


def _has_unused_alpha(image: Image.Image) -> bool:
    """Whether the alpha of a BMP is empty: most programs that write 32 bits leave it at 0."""
    if image.format != "BMP" or image.mode != "RGBA":
        return False
    return image.getchannel("A").getextrema() == (0, 0)


# Orientation.


def find_orientation(image: Image.Image) -> int:
    """EXIF orientation that is still to be undone, 1..8, from wherever the file has it.

    EXIF comes before XMP, as in Pillow. A damaged note counts as none, as in browsers.
    """
    try:
        # Not image.getexif(): that of a PNG decodes all pixels to look for notes behind them.
        exif = Image.Image.getexif(image)  # also XMP as most programs write it
        found = exif.get(ExifTags.Base.Orientation)
        if found is None and image.format != "TIFF":  # Pillow alone turns a TIFF
            found = next(_rarer_orientations(image.info), 1)
        return next((known for known in UPRIGHT if known == found), 1)
    except Exception:  # whatever Pillow meets in a damaged block
        return 1


def _rarer_orientations(info: dict[str | tuple[int, int], object]) -> Iterator[int]:
    """Orientations in notes of a picture that Pillow does not look into."""
    notes = [info.get("xmp"), info.get(XMP_KEY)]
    for key in PROFILE_KEYS:
        if profile := info.get(key):  # its name, its length and its bytes in hexadecimal
            notes.append(bytes.fromhex(str(profile).split(None, 2)[2]))
    for note in notes:
        data = note.encode() if isinstance(note, str) else note
        if not isinstance(data, bytes):
            continue
        if data.startswith(b"Exif\x00\x00"):
            exif = Image.Exif()
            exif.load(data)
            yield from (exif[key] for key in [ExifTags.Base.Orientation] if key in exif)
        # Without zeros UTF-16 reads as ASCII.
        elif found := XMP_ORIENTATION.search(data.replace(b"\x00", b"")):
            yield int(found[1])


XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")


# PNG.


def _without_notes(png: bytes, wanted: Collection[bytes]) -> tuple[bytes, dict[str, bytes | str]]:
    """Split a PNG into what makes its pixels, and the notes that may hold an orientation.

    Pillow refuses a picture whose texts or colour profile are large or damaged, though it does
    not need them, and looks for notes behind the pixels only after decoding.

    Returns:
        The PNG without its notes, and those, named as Pillow's info names them.
    """
    view, notes = memoryview(png), dict[str, bytes | str]()
    kept: list[bytes | memoryview] = [PNG_START]
    start, kind = len(PNG_START), b""
    while start + 12 <= len(png) and kind != b"IEND":
        end = start + 12 + int.from_bytes(view[start : start + 4], "big")
        kind = bytes(view[start + 4 : start + 8])
        if not kind.isalpha():
            break
        if kind[:1].isupper() or kind in (b"tRNS", *wanted):  # upper case: needed for the pixels
            kept.append(view[start:end])
        elif kind in NOTE_CHUNKS and (note := _note(kind, bytes(view[start + 8 : end - 4]))):
            notes.setdefault(*note)
        start = end
    if kind != b"IEND":
        kept.append(view[start:])  # damaged: for Pillow to judge
    return b"".join(kept), notes


def _note(kind: bytes, content: bytes) -> tuple[str, bytes | str] | None:
    """Name and value of a chunk that may hold an orientation; None for any other."""
    if kind == b"eXIf":
        return "exif", b"Exif\x00\x00" + content
    key, _, value = content.partition(b"\x00")
    name = key.decode("latin-1")
    if name not in (XMP_KEY, *PROFILE_KEYS):
        return None
    is_packed = kind == b"zTXt"
    if kind == b"zTXt":
        value = value[1:]  # the method
    elif kind == b"iTXt":
        is_packed = value[:1] == b"\x01"
        value = value[2:].split(b"\x00", 2)[-1]  # the method, a language, a translated key
    if is_packed:
        try:
            value = zlib.decompressobj().decompress(value, MAX_NOTE_BYTES)
        except zlib.error:
            return None
    return ("xmp", value) if name == XMP_KEY else (name, value.decode("latin-1"))
