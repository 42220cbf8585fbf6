"""Files as people have them: whole or not, of other colours, larger than memory, and no pictures at all."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from darkroom.storage import decode, encode_png, read_squares
from darkroom.storage.decoding import Budget, PictureError

CASES = Path(__file__).parents[1] / "cases"
PLAIN = [(200, 30, 30), (30, 180, 40), (20, 40, 220)]  # what the cases' picture is of
RANDOM = np.random.default_rng(0)


def case(name: str) -> bytes:
    return (CASES / name).read_bytes()


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(side: int, depth: int, colours: int, pixels: bytes, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colours, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *more, chunk(b"IDAT", pixels), chunk(b"IEND", b"")])


def colours(array: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in array.reshape(-1, array.shape[-1]).tolist()}


# ---- whole or not


def test_a_png_that_ends_in_its_pixels_is_refused_wherever_it_ends() -> None:
    whole = encode_png(RANDOM.integers(0, 256, (64, 64, 3), np.uint8))
    assert decode(whole, "x").shape == (64, 64, 3)
    for length in range(60, len(whole) - 1, 97):
        with pytest.raises(PictureError, match=r"^x\.png: the image is cut short or damaged"):
            decode(whole[:length], "x.png")


def test_a_png_with_fewer_lines_than_it_says_is_refused() -> None:
    three = zlib.compress((b"\0" + bytes(64 * 3)) * 3)
    with pytest.raises(PictureError, match="its pixels are cut off"):
        decode(png(64, 8, 2, three), "x.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_whole_pngs_of_every_kind_are_whole(mode: str) -> None:
    image = Image.fromarray(RANDOM.integers(0, 256, (13, 7, 3), np.uint8))
    image = Image.fromarray(np.arange(91, dtype=np.uint16).reshape(13, 7)) if mode == "I;16" else image.convert(mode)
    assert decode(saved(image, "PNG"), "x").shape == (13, 7, 3)


def test_an_interlaced_png_is_whole() -> None:
    """Adam7 of 3 x 3 black pixels, by hand: passes 1, 5, 6 and 7 have pixels at this size, and 2 to 4 not all."""
    lines = [1, 1, 2, 1, 1, 3]
    body = b"".join(b"\0" + bytes(count) for count in lines)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 3, 8, 0, 0, 0, 1))
    whole = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    assert decode(whole, "x", "L").tolist() == np.zeros((3, 3, 1)).tolist()
    short = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body[:-2])) + chunk(b"IEND", b"")
    with pytest.raises(PictureError):
        decode(short, "x")


@pytest.mark.parametrize("name", ["bigtext_zip.png", "bigicc.png"])
def test_what_a_png_carries_beside_its_pixels_does_not_harm_it(name: str) -> None:
    assert colours(decode(case(f"png-large-metadata/{name}"), name)) == set(PLAIN)


def test_orientation_in_a_text_of_a_png_is_honoured_still() -> None:
    image, info = Image.fromarray(RANDOM.integers(0, 256, (4, 6, 3), np.uint8)), Image.Exif()
    info[0x0112] = 6
    data = saved(image, "PNG", exif=info)
    big = data[:33] + chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2_000_000))) + data[33:]
    assert np.array_equal(decode(big, "x"), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize(
    "data",
    [b"root:x:0:0:root:/root:/bin/sh\n", b"SECRET=hunter2", b"P6 hunter2 x y z", b"BMhunter2", b"GIF89ahunter2", b"x"]
    + [b"\x89PNG\r\n\x1a\nhunter2hunter2hunter2hunter2hunter2"],
)  # fmt: skip
def test_what_is_no_picture_is_not_quoted(data: bytes) -> None:
    with pytest.raises(PictureError) as caught:
        decode(data, "x.png")
    error: BaseException | None = caught.value
    assert not any(word in str(error) for word in ("root", "hunter", "SECRET"))
    assert "image" in str(error)


def test_postscript_is_no_picture() -> None:
    """Pillow would run Ghostscript on it."""
    with pytest.raises(PictureError, match="not an image of a known format"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "x.eps")


def test_heic_is_named() -> None:
    with pytest.raises(PictureError, match="HEIC picture, which is not read; save it as JPEG"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "x.heic")


# ---- colours


def test_a_profile_is_followed() -> None:
    """Its red and green are swapped."""
    swapped = [(green, red, blue) for red, green, blue in PLAIN]
    found = decode(case("colour-profile/icc_swapped.png"), "x")
    for wanted in swapped:
        assert min(np.abs(np.array(wanted) - colour).max() for colour in colours(found)) <= 2
    photo = decode(case("colour-profile/icc_swapped.jpg"), "x").astype(int)
    assert np.abs(photo - found).mean() < 8, "but for what JPEG loses"


def test_gamma_is_followed() -> None:
    """Linear light: 149, 119 and 184 of 255, which were 200, 180 and 220 before they were cut to whole numbers."""
    found = colours(decode(case("colour-profile/gama_linear.png"), "x"))
    wanted = {round(255 * (1.055 * (level / 255) ** (1 / 2.4) - 0.055)) for level in (149, 119, 184)}
    assert {max(colour) for colour in found} == wanted


P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
# Linear Display P3 to linear sRGB (CSS Color 4, sample code).
P3_TO_SRGB = [[1.22494018, -0.22494018, 0], [-0.04205695, 1.04205695, 0], [-0.01963755, -0.07863605, 1.0982736]]


def curve(level: float) -> float:
    return level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4


def beside(data: bytes, *chunks: bytes) -> bytes:
    return b"".join([data[:33], *chunks, data[33:]])


@pytest.mark.parametrize("kind", ["cICP", "cHRM", "both"])
def test_primaries_are_followed(kind: str) -> None:
    """Of Display P3, by either chunk; cICP has the last word."""
    array = np.array([[(200, 120, 90), (255, 255, 255), (90, 90, 90), (0, 0, 0), (60, 200, 100)]], np.uint8)
    cicp, chrm = chunk(b"cICP", bytes([12, 13, 0, 1])), chunk(b"cHRM", struct.pack(">8I", *P3))
    chunks = {"cICP": [cicp], "cHRM": [chrm], "both": [cicp, chunk(b"gAMA", struct.pack(">I", 100_000))]}[kind]
    light = np.vectorize(curve)(array / 255) @ np.array(P3_TO_SRGB).T
    wanted = np.array([1.055 * max(level, 0) ** (1 / 2.4) - 0.055 for level in light.ravel()]).clip(0, 1) * 255
    found = decode(beside(encode_png(array), *chunks), "x").astype(float)
    assert np.abs(found.ravel() - wanted).max() < 1
    assert found[0, 1:4, 0].tolist() == [255, 90, 0], "what is grey stays so"


def test_primaries_of_srgb_change_nothing() -> None:
    array = RANDOM.integers(0, 256, (16, 16, 3), np.uint8)
    usual = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    for chunks in ([chunk(b"cHRM", usual)], [chunk(b"cICP", bytes([1, 13, 0, 1]))], [chunk(b"cHRM", bytes(32))]):
        assert np.array_equal(decode(beside(encode_png(array), *chunks), "x"), array)
    grey = beside(saved(Image.fromarray(array[:, :, 0]), "PNG"), chunk(b"cHRM", struct.pack(">8I", *P3)))
    assert np.array_equal(decode(grey, "x", "L")[:, :, 0], array[:, :, 0])


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((9, 16, 0, 1), "x.png: it has the brightness of PQ (cICP); save it with the colours of sRGB"),
        ((9, 18, 0, 1), "x.png: it has the brightness of HLG (cICP); save it with the colours of sRGB"),
        ((2, 13, 0, 1), "x.png: its colours are of a kind that is not known (cICP 2, 13, 0, 1); save it with"),
        ((1, 13, 0, 0), "x.png: its colours are of a kind that is not known (cICP 1, 13, 0, 0); save it with"),
    ],
)
def test_colours_that_no_eight_bits_hold_are_said(numbers: tuple[int, ...], says: str) -> None:
    data = beside(encode_png(np.zeros((4, 4, 3), np.uint8)), chunk(b"cICP", bytes(numbers)))
    with pytest.raises(PictureError) as caught:
        decode(data, "x.png")
    assert str(caught.value).startswith(says)


def test_what_is_srgb_stays_as_it_is_to_the_bit() -> None:
    array = RANDOM.integers(0, 256, (32, 32, 3), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tagged = saved(Image.fromarray(array), "PNG", icc_profile=profile)
    assert np.array_equal(decode(tagged, "x"), array)
    plain = encode_png(array)
    usual = plain[:33] + chunk(b"gAMA", struct.pack(">I", 45455)) + plain[33:]
    assert np.array_equal(decode(usual, "x"), array)
    linear = plain[:33] + chunk(b"sRGB", b"\0") + chunk(b"gAMA", struct.pack(">I", 100_000)) + plain[33:]
    assert np.array_equal(decode(linear, "x"), array), "sRGB has the last word"


@pytest.mark.parametrize("profile", [b"no profile", b"x" * 200])
def test_a_profile_that_is_none_is_passed_over(profile: bytes) -> None:
    array = RANDOM.integers(0, 256, (4, 4, 3), np.uint8)
    assert np.array_equal(decode(saved(Image.fromarray(array), "PNG", icc_profile=profile), "x"), array)


def test_a_profile_does_not_touch_alpha() -> None:
    profile = Image.open(CASES / "colour-profile/icc_swapped.png").info["icc_profile"]
    image = Image.new("RGBA", (2, 1), (200, 30, 30, 255))
    image.putpixel((1, 0), (200, 30, 30, 0))
    found = decode(saved(image, "PNG", icc_profile=profile), "x")[0].astype(int)
    assert np.abs(found - [(30, 200, 30), (255, 255, 255)]).max() <= 2


def test_twelve_bits_in_sixteen_are_not_black() -> None:
    image = Image.fromarray(np.array([[0, 0x7FF, 0xFFF]], np.uint16))
    assert decode(saved(image, "TIFF"), "x", "L")[0, :, 0].tolist() == [0, 127, 255]


# ---- memory


def test_a_budget_is_never_passed_and_the_largest_gets_all_of_it() -> None:
    budget, most, lock = Budget(100), [0], threading.Lock()

    def work(amount: int) -> None:
        with budget.take(amount), lock:
            most[0] = max(most[0], budget.taken)

    threads = [threading.Thread(target=work, args=(amount,)) for amount in [30, 70, 1000, 10, 60] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert most[0] == 100 and budget.taken == 0


BOMBS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from darkroom.storage import in_a_decoder, read_squares
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(16) as pool:
    found = list(pool.map(lambda name: in_a_decoder(read_squares, data, str(name), [8]), range(int(sys.argv[2]))))
assert len({squares.shape for squares in found}) == 1
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def peak(tmp_path: Path, data: bytes, count: int) -> int:
    """Megabytes that so many threads take at most to decode this at once, in a process of their own."""
    (tmp_path / "bomb").write_bytes(data)
    command = [sys.executable, "-c", BOMBS, str(tmp_path / "bomb"), str(count)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_small_files_that_unpack_to_much_are_unpacked_a_few_at_a_time(tmp_path: Path) -> None:
    """Of 5000 x 5000 one takes 4 bytes a pixel as it is and 4 as RGB, 0.2 GB; ten at once would take 2."""
    data = saved(Image.new("RGBA", (5000, 5000), (1, 2, 3, 200)), "PNG", compress_level=1)
    assert peak(tmp_path, data, 10) < 620


def test_a_photo_of_108_megapixels_is_drafted(tmp_path: Path) -> None:
    data = saved(Image.new("RGB", (12_000, 9_000), (90, 120, 200)), "JPEG", quality=80)
    squares = read_squares(data, "x.jpg", [64])
    assert squares.shape == (9_000, 12_000) and squares.arrays[64].shape == (64, 64, 3)
    assert np.abs(squares.arrays[64].astype(int) - (90, 120, 200)).max() <= 2
    assert peak(tmp_path, data, 2) < 200
    with pytest.raises(PictureError, match="more than 64,000,000 pixels"):
        decode(data, "x.jpg")


def test_what_a_format_takes_to_unpack_counts() -> None:
    """libwebp holds four copies."""
    data = saved(Image.new("RGB", (8_000, 7_000)), "WEBP", lossless=True, method=0)
    with pytest.raises(PictureError, match="952 MB to unpack as WEBP"):
        decode(data, "x.webp")
