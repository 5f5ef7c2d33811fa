# SPDX-License-Identifier: Apache-2.0
"""Small pictures of every format, turned by a note in every place where files have one."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from owl.portable.picture_reader_owl import UPRIGHT

TURN_BACK = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
WIDTH, HEIGHT = 64, 48


def upright_picture() -> Image.Image:
    """A smooth picture that differs from each of its turned copies."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    shades = [rows * 5, columns * 3, 255 - rows - 2 * columns]
    return Image.fromarray(np.stack(shades, axis=-1).clip(0, 255).astype(np.uint8))


def stored_picture(orientation: int) -> Image.Image:
    """The picture as a camera stores it that was held so."""
    method = TURN_BACK.get(orientation, UPRIGHT.get(orientation))
    upright = upright_picture()
    return upright if method is None else upright.transpose(method)


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def xmp_of(orientation: int, form: str = '<x tiff:Orientation="{}"/>') -> bytes:
    return form.format(orientation).encode()


def saved(picture: Image.Image, codec: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, codec, **options)
    return stream.getvalue()


# JPEG.


def jpeg(orientation: int, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with application segments of its own behind the first marker."""
    inserted = b"".join(
        struct.pack(">BBH", 0xFF, 0xE0 + number, len(content) + 2) + content
        for number, content in segments
    )
    data = saved(stored_picture(orientation), "JPEG", quality=95)
    return data[:2] + inserted + data[2:]


def big_profile() -> list[tuple[int, bytes]]:
    """A colour profile of 180 kB, in three segments."""
    return [(2, b"ICC_PROFILE\x00" + bytes([part, 3]) + bytes(60_000)) for part in (1, 2, 3)]


JPEGS = {
    "exif": lambda turn: jpeg(turn, (1, exif_of(turn))),
    "exif behind a profile": lambda turn: jpeg(turn, *big_profile(), (1, exif_of(turn))),
    "exif behind padding": lambda turn: jpeg(turn, (1, exif_of(turn))).replace(
        b"\xff\xe1", b"\xff\xff\xff\xe1", 1
    ),
    "xmp": lambda turn: jpeg(turn, (1, b"http://ns.adobe.com/xap/1.0/\x00" + xmp_of(turn))),
    "xmp behind a profile": lambda turn: jpeg(
        turn, *big_profile(), (1, b"http://ns.adobe.com/xap/1.0/\x00" + xmp_of(turn))
    ),
    "xmp of exiftool": lambda turn: jpeg(
        turn, (1, b"http://ns.adobe.com/xap/1.0/\x00" + xmp_of(turn, "<x tiff:Orientation='{}'/>"))
    ),
}


# PNG.


def png(orientation: int, *chunks: tuple[bytes, bytes], behind: bool = False) -> bytes:
    """A PNG with further chunks before its pixels, or behind them."""
    data = saved(stored_picture(orientation), "PNG")
    place = data.index(b"IEND" if behind else b"IDAT") - 4
    return data[:place] + b"".join(chunk(*each) for each in chunks) + data[place:]


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def raw_profile(name: bytes, content: bytes) -> bytes:
    """A note as ImageMagick writes it."""
    text = b"\n%s\n%8d\n%s\n" % (name, len(content), content.hex().encode())
    return b"Raw profile type %s\x00\x00" % name + zlib.compress(text)


XMP_NAME = b"XML:com.adobe.xmp\x00"
PNGS = {
    "exif": lambda turn: png(turn, (b"eXIf", exif_of(turn)[6:])),
    "exif as in JPEG": lambda turn: png(turn, (b"eXIf", exif_of(turn))),
    "exif behind": lambda turn: png(turn, (b"eXIf", exif_of(turn)[6:]), behind=True),
    "xmp": lambda turn: png(turn, (b"iTXt", XMP_NAME + bytes(4) + xmp_of(turn))),
    "xmp packed": lambda turn: png(
        turn, (b"iTXt", XMP_NAME + b"\x01" + bytes(3) + zlib.compress(xmp_of(turn)))
    ),
    "xmp behind": lambda turn: png(
        turn, (b"iTXt", XMP_NAME + bytes(4) + xmp_of(turn)), behind=True
    ),
    "raw exif": lambda turn: png(turn, (b"zTXt", raw_profile(b"exif", exif_of(turn)))),
    "raw APP1": lambda turn: png(turn, (b"zTXt", raw_profile(b"APP1", exif_of(turn)))),
    "raw xmp": lambda turn: png(turn, (b"zTXt", raw_profile(b"xmp", xmp_of(turn)))),
}


# Others.


def tiff(orientation: int, *, xmp: bool = False, **options) -> bytes:
    tags = {700: xmp_of(orientation)} if xmp else {274: orientation}
    return saved(stored_picture(orientation), "TIFF", tiffinfo=tags, **options)


def encoded(codec: str, note: str, **options):
    """A maker of pictures that Pillow writes with a note."""
    make = {"exif": exif_of, "xmp": xmp_of}[note]
    return lambda turn: saved(stored_picture(turn), codec, **{note: make(turn)}, **options)


CARRIERS = {
    **{f"JPEG {name}": make for name, make in JPEGS.items()},
    **{f"PNG {name}": make for name, make in PNGS.items()},
    "TIFF tag": tiff,
    "TIFF tag, packed": lambda turn: tiff(turn, compression="tiff_lzw"),
    "TIFF tag, big": lambda turn: tiff(turn, big_tiff=True),
    "TIFF xmp": lambda turn: tiff(turn, xmp=True),
    "WEBP exif": encoded("WEBP", "exif", lossless=True),
    "WEBP xmp": encoded("WEBP", "xmp", lossless=True),
    "AVIF irot": encoded("AVIF", "exif", quality=95, speed=10),
    "AVIF xmp": encoded("AVIF", "xmp", quality=95, speed=10),
}
"""Name -> what makes the picture for an orientation."""

UNTURNED = {
    "JPEG": lambda: saved(upright_picture(), "JPEG", quality=95),
    "JPEG grey": lambda: saved(upright_picture().convert("L"), "JPEG"),
    "JPEG cmyk": lambda: saved(upright_picture().convert("CMYK"), "JPEG"),
    "GIF": lambda: saved(upright_picture(), "GIF"),
    "BMP": lambda: saved(upright_picture(), "BMP"),
    "BMP empty alpha": lambda: bitmap_with_empty_alpha(upright_picture()),
    "PNG alpha": lambda: saved(with_alpha(), "PNG"),
    "PNG palette": lambda: saved(upright_picture().quantize(64), "PNG"),
    "PNG 16 bit": lambda: saved(sixteen_bit(), "PNG"),
    "PNG large notes": lambda: png(1, *large_notes()),
    "TIFF 16 bit": lambda: saved(sixteen_bit(), "TIFF"),
    "TIFF cmyk": lambda: saved(upright_picture().convert("CMYK"), "TIFF"),
    "WEBP alpha": lambda: saved(with_alpha(), "WEBP"),
    "AVIF alpha": lambda: saved(with_alpha(), "AVIF", speed=10),
}
"""Name -> what makes a picture without an orientation."""


def bitmap_with_empty_alpha(picture: Image.Image) -> bytes:
    """A BMP of 32 bits whose header names alpha bits, which are all 0."""
    rgba = picture.convert("RGBA")
    rgba.putalpha(0)
    pixels = rgba.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, *picture.size, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header = (header + masks).ljust(108, b"\x00")
    return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + header + pixels


def with_alpha() -> Image.Image:
    picture = upright_picture()
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.asarray(upright_picture().convert("L")).astype(np.uint16) * 257)


def large_notes() -> list[tuple[bytes, bytes]]:
    """A text of 3 MB, one that is packed, and a colour profile of 3 MB."""
    large = zlib.compress(bytes(3 << 20))
    return [
        (b"tEXt", b"Comment\x00" + b"x" * (3 << 20)),
        (b"zTXt", b"Comment\x00\x00" + large),
        (b"iCCP", b"profile\x00\x00" + large),
    ]
