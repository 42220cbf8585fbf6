"""Files that are no pictures, or none that is whole, and masks that select nothing: each costs its own row."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from hostile.case import ROW, Case, Content, folder, link, pipe, sparse
from hostile.rows import EDIT, NOISE, PAINT
from runs import png

GOOD = png(48)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
CUT = "the image is cut short or damaged"
NONE = "not an image of a known format"


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(array: np.ndarray) -> bytes:
    return saved(Image.fromarray(array), "PNG")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def small_png(width: int, height: int, pixels: bytes, depth: int = 8, colours: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    return SIGNATURE + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def other_size(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header has another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


RANDOM = np.random.default_rng(1)
PHOTO = Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3), np.uint8))
JPEG, GIF, BMP, TIFF, WEBP = (saved(PHOTO, kind) for kind in ("JPEG", "GIF", "BMP", "TIFF", "WEBP"))
FLIPPED = GOOD[:300] + bytes(byte ^ 255 for byte in GOOD[300:340]) + GOOD[340:]
ZIP = io.BytesIO()
with zipfile.ZipFile(ZIP, "w") as archive:
    archive.writestr("a.png", GOOD)

# The file's name, what it holds, and what its row says.
PICTURES: dict[str, tuple[str, Content, str]] = {
    "an empty file": ("a.png", b"", "a.png: the file is empty, wanted an image"),
    "a byte": ("a.png", b"x", NONE),
    "a text": ("a.png", "root:x:0:0:root:/root:/bin/sh\n", NONE),
    "noise": ("a.png", NOISE, NONE),
    "zeros": ("a.png", bytes(5000), NONE),
    "a page": ("a.jpg", "<!DOCTYPE html><html>Not found</html>", NONE),
    "a pointer of Git LFS": ("a.png", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", NONE),
    "a drawing": ("a.png", "<svg xmlns='http://www.w3.org/2000/svg'/>", NONE),
    "a document": ("a.png", b"%PDF-1.7\n", NONE),
    "PostScript": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NONE),
    "an archive": ("a.png", ZIP.getvalue(), NONE),
    "a packed PNG": ("a.png", gzip.compress(GOOD), NONE),
    "a film": ("a.png", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a.png: "),
    "HEIC by another name": ("a.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture, which is not read"),
    "an array": ("a.png", b"\x93NUMPY\x01\0v\0{'descr': '|u1'}", NONE),
    "Photoshop": ("a.png", b"8BPS\0\1" + bytes(100), NONE),
    "an icon": ("a.png", saved(PHOTO, "ICO"), NONE),
    "PNG: its signature": ("a.png", SIGNATURE, CUT),
    "PNG: half a header": ("a.png", GOOD[:20], CUT),
    "PNG: cut in its pixels": ("a.png", GOOD[: len(GOOD) // 2], f"{CUT}: it ends before its end is marked"),
    "PNG: without its end": ("a.png", GOOD[:-12], f"{CUT}: it ends before its end is marked"),
    "PNG: damaged pixels": ("a.png", FLIPPED, CUT),
    "PNG: too few lines": ("a.png", small_png(64, 64, bytes(3 * 193)), f"{CUT}: its pixels are cut off"),
    "PNG: no pixels": ("a.png", small_png(0, 64, b""), "a.png: "),
    "PNG: no such depth": ("a.png", small_png(4, 4, bytes(100), depth=3), CUT),
    "PNG: no such colours": ("a.png", small_png(4, 4, bytes(100), colours=5), CUT),
    "PNG: a chunk without an end": ("a.png", GOOD[:33] + b"\xff\xff\xff\xffIDAT" + GOOD[41:], CUT),
    "PNG: another header": ("a.png", SIGNATURE + chunk(b"IDAT", b"") + GOOD[33:], CUT),
    "PNG: 900 megapixels": ("a.png", small_png(30_000, 30_000, b"", 1, 0), "30000 x 30000, more than 128,000,000 pix"),
    "PNG: all pixels there are": ("a.png", small_png(2**31 - 1, 2**31 - 1, b""), "more than 64,000,000 pixels"),
    "PNG: a bomb": ("a.png", small_png(8000, 8000, bytes(8000 * 24_001 // 4)), f"{CUT}: its pixels are cut off"),
    "JPEG: its first bytes": ("a.jpg", JPEG[:20], CUT),
    "JPEG: half": ("a.jpg", JPEG[: len(JPEG) // 2], CUT),
    "JPEG: no pixels": ("a.jpg", other_size(JPEG, 0, 64), "a.jpg: "),
    "JPEG: 4 gigapixels": ("a.jpg", other_size(JPEG, 65_000, 65_000), "the image is 65000 x 65000, more than 64,000,0"),
    "GIF: half": ("a.gif", GIF[: len(GIF) // 2], CUT),
    "GIF: its header": ("a.gif", GIF[:13], CUT),
    "BMP: half": ("a.bmp", BMP[: len(BMP) // 2], CUT),
    "BMP: a size that is none": ("a.bmp", BMP[:18] + struct.pack("<ii", 2**30, 2**30) + BMP[26:], "a.bmp: "),
    "TIFF: half": ("a.tif", TIFF[: len(TIFF) // 2], CUT),
    "TIFF: a directory at no place": ("a.tif", TIFF[:4] + b"\xff\xff\xff\x7f" + TIFF[8:], CUT),
    "TIFF: floats": ("a.tif", saved(Image.new("F", (8, 8)), "TIFF"), "32-bit pixels, which have no agreed white"),
    "WebP: half": ("a.webp", WEBP[: len(WEBP) // 2], CUT),
    "WebP: its header": ("a.webp", WEBP[:16], CUT),
    "PPM: 4 terapixels": ("a.ppm", "P6 2000000 2000000 255\n", "more than 64,000,000 pixels"),
    "PPM: half": ("a.ppm", b"P6 8 8 255\n" + bytes(99), CUT),
    "PPM: a word": ("a.ppm", "P6 hunter2 8 255\n", CUT),
    "a file of 257 MB": ("a.png", sparse(257 * 2**20), "bytes, more than 268,435,456"),
    "a folder": ("a.png", folder, "it is no file"),
    "a pipe": ("a.png", pipe, "it is no file (a device, a pipe or a socket)"),
    "a link to a device": ("a.png", link("/dev/zero"), "lies outside of the manifest's folder"),
    "a link to itself": ("a.png", link("a.png"), "a.png"),
    "a link to nothing": ("a.png", link("b.png"), "there is no file"),
    "a link to a user's file": ("a.png", link("/etc/passwd"), "lies outside of the manifest's folder"),
}  # fmt: skip

# A path, and what its row says.
PATHS: dict[str, tuple[str, str]] = {
    "not there": ("b.png", "there is no file"),
    "another spelling": ("cafe\u0301.png", "Unicode NFC and NFD"),
    "a device": ("/dev/zero", "lies outside of the manifest's folder"),
    "a user's file": ("file:///etc/passwd", "lies outside of the manifest's folder"),
    "above": ("../a.png", "../a.png lies outside of the manifest's folder"),
    "above, and below again": ("x/../../a.png", "lies outside of the manifest's folder"),
    "a name that is too long": ("a" * 300 + ".png", "there is no file"),
    "below a file": ("a.png/b.png", "there is no file"),
    "another bucket": ("s3://elsewhere/a.png", "lies outside of the manifest's folder and bucket"),
    "a key that climbs": ("s3://bucket/../a.png", "names no object"),
    "a bucket alone": ("s3://bucket", "bucket"),
}

BLACK = np.zeros((48, 48), np.uint8)
DOT = np.zeros((480, 480), np.uint8)
DOT[3, 3] = 255

MASKS: dict[str, tuple[bytes | Callable[[Path], None], dict[str, object], str]] = {
    "black": (grey(BLACK), {}, "the mask m.png selects nothing: all of it is the same, 0"),
    "grey": (grey(BLACK + 99), {}, "the mask m.png selects nothing: all of it is the same, 99"),
    "classes": (grey(np.arange(48, dtype=np.uint8).repeat(48).reshape(48, 48)), {}, "name some in 'mask_value'"),
    "other classes": (grey(BLACK + 3), {"mask_value": [4]}, "selects nothing: 'mask_value' is 4, the mask has 3"),
    "colours as classes": (saved(PHOTO.crop((0, 0, 48, 48)), "PNG"), {"mask_value": [1]}, "the mask has colours (RGB)"),
    "transparent": (saved(Image.new("RGBA", (48, 48)), "PNG"), {}, "the mask m.png selects nothing"),
    "white, where all is refused": (grey(BLACK + 255), {"full_mask": "fail"}, "selects the whole picture"),
    "of another size": (grey(BLACK[:, :47]), {}, "the mask m.png is 47 x 48, its image a.png is 48 x 48; they must ma"),
    "a text": (b"mask", {}, NONE),
    "cut in its pixels": (grey(BLACK)[:60], {}, CUT),
    "floats": (saved(Image.new("F", (48, 48)), "TIFF"), {}, "m.png"),
    "a folder": (folder, {}, "it is no file"),
    "a pipe": (pipe, {}, "it is no file"),
    "a link to a device": (link("/dev/zero"), {}, "lies outside of the manifest's folder"),
}


def cases() -> dict[str, Case]:
    found = {}
    for name, (file, content, says) in PICTURES.items():
        found[f"picture: {name}"] = _row({**EDIT, "image": file}, says, {file: content})
    for name, (path, says) in PATHS.items():
        found[f"path: {name}"] = _row({**EDIT, "image": path}, says, {"a.png": GOOD, "caf\xe9.png": GOOD})
    for name, (content, words, says) in MASKS.items():
        found[f"mask: {name}"] = _row({**PAINT, **words}, says, {"a.png": GOOD, "m.png": content})
    large = {"a.png": grey(np.zeros((480, 480), np.uint8)), "m.png": grey(DOT)}
    found["mask: a dot"] = _row(PAINT, "none of them left of it at 24 pixels", large)
    found |= {
        f"import: {name}": Case(says, {"a.pth": content}, "embed", given="out", options=_IMPORT)
        for name, (content, says) in IMPORTS.items()
    }
    return found


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch evil",)


def _pickled(value: object) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


_IMPORT = {"model": "if-xs", "imported": "a.pth"}
IMPORTS: dict[str, tuple[bytes, str]] = {
    "code": (_pickled({"a": _Evil()}), "a.pth"),
    "a list": (_pickled([1]), "a.pth"),
    "numbers": (_pickled({"a": 1}), "a.pth"),
    "noise": (NOISE, "a.pth"),
    "nothing": (b"", "a.pth"),
}


def _row(row: dict[str, object], says: str, files: dict[str, Content]) -> Case:
    return Case(says, {"row.json": json.dumps(row), **files}, "row", ROW, given="row.json")
