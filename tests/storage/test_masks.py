"""Masks as editors, programs and data sets write them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.storage import read_mask
from darkroom.storage.decoding import PictureError

CASES = Path(__file__).parents[1] / "cases"
SIDE = 8
LEFT = np.repeat([[True] * 4 + [False] * 4], SIDE, axis=0)  # what all masks here select


def painted(image: Image.Image, kind: str = "PNG", ids: tuple[int, ...] | None = None) -> np.ndarray:
    """bool [8, 8], of the mask saved as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    array = read_mask(buffer.getvalue(), "m", [SIDE], ids=ids).arrays[SIDE]
    assert array.dtype == np.uint8 and set(np.unique(array)) <= {0, 255}
    return array[:, :, 0] == 255


def grey(high: float, low: float = 0, kind: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(LEFT, high, low).astype(kind))


def coloured(mode: str, ink: tuple[int, ...], ground: tuple[int, ...]) -> Image.Image:
    image = Image.new(mode, (SIDE, SIDE), ground)
    image.paste(ink, (0, 0, SIDE // 2, SIDE))
    return image


@pytest.mark.parametrize("high", [255, 128, 1, 2, 100])
def test_grey_of_any_height(high: int) -> None:
    assert np.array_equal(painted(grey(high)), LEFT)


@pytest.mark.parametrize("high", [65535, 32768, 255, 1, 4095, 300])
def test_sixteen_bits_of_any_height(high: int) -> None:
    assert np.array_equal(painted(grey(high, kind=np.uint16)), LEFT)


def test_soft_edges_of_any_depth_are_cut_in_the_middle() -> None:
    for full, kind in ((255, np.uint8), (255, np.uint16), (1023, np.uint16), (4095, np.uint16), (65535, np.uint16)):
        ramp = np.repeat(np.linspace(0, full, SIDE)[None, ::-1], SIDE, axis=0).astype(kind)
        assert np.array_equal(painted(Image.fromarray(ramp)), LEFT), full


@pytest.mark.parametrize(("kind", "high"), [(np.float32, 1.0), (np.float32, 255.0), (np.int32, 1), (np.int32, 7)])
def test_thirty_two_bits(kind: type, high: float) -> None:
    assert np.array_equal(painted(grey(high, kind=kind), "TIFF"), LEFT)


@pytest.mark.parametrize("ink", [(255, 0, 0), (0, 0, 255), (255, 0, 255), (255, 255, 255), (128, 0, 0), (0, 0, 90)])
def test_any_colour_on_black(ink: tuple[int, int, int]) -> None:
    assert np.array_equal(painted(coloured("RGB", ink, (0, 0, 0))), LEFT)
    palette = coloured("RGB", ink, (0, 0, 0)).convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    assert np.array_equal(painted(palette), LEFT)


def test_a_palette_that_nobody_filled() -> None:
    image = grey(1)
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([0, 0, 0] * 256)
    assert np.array_equal(painted(image), LEFT)


def test_one_bit() -> None:
    assert np.array_equal(painted(grey(255).convert("1")), LEFT)


@pytest.mark.parametrize("ink", [(255, 255, 255, 255), (0, 0, 0, 255), (255, 0, 0, 255), (255, 255, 255, 200)])
@pytest.mark.parametrize("ground", [(255, 255, 255, 0), (0, 0, 0, 0), (9, 99, 199, 20)])
def test_strokes_on_a_transparent_ground(ink: tuple[int, ...], ground: tuple[int, ...]) -> None:
    assert np.array_equal(painted(coloured("RGBA", ink, ground)), LEFT)


def test_black_strokes_on_a_layer_take_away_from_white_ones() -> None:
    image = coloured("RGBA", (255, 255, 255, 255), (255, 255, 255, 0))
    image.paste((0, 0, 0, 255), (0, 0, SIDE, 2))
    assert np.array_equal(painted(image), LEFT & (np.arange(SIDE) >= 2)[:, None])


def test_alpha_that_is_full_everywhere_says_nothing() -> None:
    assert np.array_equal(painted(coloured("RGBA", (255, 255, 255, 255), (0, 0, 0, 255))), LEFT)
    assert np.array_equal(painted(coloured("LA", (1, 255), (0, 255))), LEFT)


def test_nothing_and_all() -> None:
    assert not painted(grey(0)).any() and not painted(grey(0, kind=np.uint16)).any()
    assert not painted(coloured("RGBA", (0, 0, 0, 0), (9, 9, 9, 0))).any()
    assert painted(grey(255, 255)).all()
    assert not painted(Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))).any(), "classes, most likely"


def classes() -> np.ndarray:
    array = np.full((SIDE, SIDE), 7, np.uint8)
    array[LEFT] = 3
    array[0, 0] = 200
    return array


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "I;16"])
def test_class_ids(mode: str) -> None:
    image = Image.fromarray(classes())
    if mode == "P":
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(list(range(255, -1, -1)) * 3)
    elif mode == "I;16":
        image = Image.fromarray(classes().astype(np.uint16))
    else:
        image = image.convert(mode)
    wanted = LEFT.copy()
    wanted[0, 0] = False
    assert np.array_equal(painted(image, ids=(3,)), wanted)
    assert np.array_equal(painted(image, ids=(3, 200)), LEFT)
    assert not painted(image, ids=(4,)).any()


def test_class_ids_of_four_bits_are_those_that_were_written() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 4, 1, 4, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\x12\x3f")
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    mask = read_mask(data, "m", [4], "stretch", (2, 15))
    assert mask.arrays[4][0, :, 0].tolist() == [0, 255, 0, 255] and mask.values == (1, 2, 3, 15)


def test_class_ids_that_are_colours_are_refused() -> None:
    with pytest.raises(PictureError, match="m: the mask has colours"):
        painted(coloured("RGB", (200, 0, 0), (0, 0, 9)), ids=(1,))


@pytest.mark.parametrize("name", ["mask-0-1/m_01", "mask-16-bit/m_255_16", "mask-transparent/m_white_strokes"])
def test_the_cases_paint_what_is_not_the_lowest(name: str) -> None:
    mask = read_mask((CASES / f"{name}.png").read_bytes(), name, [48])
    written = np.asarray(Image.open(CASES / f"{name}.png")).reshape(48, 48, -1)[:, :, -1]
    assert 0 < mask.painted < 48 * 48 and np.array_equal(mask.arrays[48][:, :, 0] == 255, written > 0)
