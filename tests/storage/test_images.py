from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from darkroom.storage import decode, encode_png, image_key, to_uint8
from darkroom.storage.squares import fitted, to_array

KEY = "ab34567890cdef" * 4


def save(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(height: int = 6, width: int = 9) -> np.ndarray:
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def test_png_comes_back_to_the_byte() -> None:
    data = encode_png(gradient())
    assert np.array_equal(decode(data, "x"), gradient())
    assert encode_png(decode(data, "x")) == data


def test_eight_bits_are_the_nearest_halves_to_even_and_clamped() -> None:
    half = np.float32(127.5 / 127.5 - 1)  # 127.5 of 255
    levels = np.array([-7, -1, half, 1 / 127.5, 1, 1.001], np.float32)
    assert to_uint8(levels).tolist() == [0, 0, 128, 128, 255, 255]
    every = (np.arange(256) / 127.5 - 1).astype(np.float32)
    assert to_uint8(every).tolist() == list(range(256))


def test_arrays_tensors_and_diffusers_way_come_to_the_same_bits() -> None:
    """(x + 1) * 127.5 and (x / 2 + 0.5) * 255 are rounded at the same two places: halving is exact."""
    near = (np.arange(256, dtype=np.float32) + 0.5) / 127.5 - 1  # where a bit decides
    steps = np.arange(-64, 65, dtype=np.int32)[:, None]
    images = np.concatenate([(near.view(np.int32) + steps).view(np.float32).ravel(), np.linspace(-1.1, 1.1, 10**6)])
    images = images[np.isfinite(images)].astype(np.float32)
    wanted = torch.from_numpy((images / 2 + 0.5).clip(0, 1) * 255).round().to(torch.uint8)
    assert torch.equal(to_uint8(torch.from_numpy(images)), wanted)
    assert np.array_equal(to_uint8(images), wanted.numpy())


def test_a_mask_has_one_channel() -> None:
    mask = np.array([[0, 255], [255, 0], [7, 128]], np.uint8)
    assert np.array_equal(decode(save(Image.fromarray(mask), "PNG"), "x", "L"), mask[:, :, None])
    assert decode(encode_png(np.full((2, 3, 3), 90, np.uint8)), "x", "L").tolist() == [[[90]] * 3] * 2


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_alpha_is_laid_on_white(kind: str) -> None:
    image = Image.new("RGBA", (3, 1), (10, 10, 10, 255))
    image.putpixel((1, 0), (10, 10, 10, 0))
    data = save(image.convert(kind), "PNG")
    assert decode(data, "x")[0, :, 0].tolist() == [10, 255, 10]


def test_half_transparent_black_is_grey() -> None:
    assert decode(save(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG"), "x").tolist() == [[[127, 127, 127]]]


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    image = Image.fromarray(np.array([[0, 0x7FFF, 0xFFFF]], np.uint16))
    assert decode(save(image, "PNG"), "x", "L")[0, :, 0].tolist() == [0, 127, 255]


def test_exif_orientation_is_honoured() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned: show rotated by 90 degrees clockwise
    turned = decode(save(Image.fromarray(gradient()), "PNG", exif=exif), "x")
    assert np.array_equal(turned, np.rot90(gradient(), -1))


def test_other_colour_models_and_palettes_become_rgb() -> None:
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert decode(save(red.convert("CMYK"), "TIFF"), "x").tolist() == [[[255, 0, 0]] * 2] * 2
    assert (
        decode(save(red.convert("P", palette=Image.Palette.ADAPTIVE), "GIF"), "x").tolist() == [[[255, 0, 0]] * 2] * 2
    )


def test_thirty_two_bit_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"in/x\.tiff: the image has 32-bit pixels"):
        decode(save(Image.new("F", (2, 2)), "TIFF"), "in/x.tiff")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "the file is empty"),
        (b"GIF87 it is not", "not an image of a known format|damaged"),
        (b"<html>404</html>", "not an image of a known format; wanted PNG"),
        (encode_png(gradient(64, 64))[:100], "cut short or damaged"),
    ],
)
def test_what_is_not_a_whole_image_is_named(data: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^inputs/x.png: .*({complaint})"):
        decode(data, "inputs/x.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_001, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    empty = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(ValueError, match=r"x\.png: the image .* pixels"):
        decode(b"\x89PNG\r\n\x1a\n" + chunk + empty, "x.png")


WHOLE = [
    save(Image.fromarray(gradient(40, 30)), kind, **options)
    for kind, options in [
        ("PNG", {}), ("JPEG", {}), ("GIF", {}), ("BMP", {}), ("WEBP", {}), ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"}),
    ]
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on broken EXIF
@settings(max_examples=400, deadline=None)
@given(st.sampled_from(WHOLE), st.data())
def test_damage_of_any_kind_is_a_value_error_or_a_picture(whole: bytes, draw: st.DataObject) -> None:
    """A file cut or overwritten anywhere must fail its own row, never the worker."""
    place = draw.draw(st.integers(0, len(whole) - 1))
    junk = draw.draw(st.binary(max_size=12))
    data = whole[:place] + junk + (whole[place + len(junk) :] if draw.draw(st.booleans()) else b"")
    try:
        array = decode(data, "x")
    except ValueError as error:
        assert str(error).startswith("x: ")
    else:
        assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3


def resized(array: np.ndarray, size: int, method: Image.Resampling = Image.Resampling.LANCZOS) -> np.ndarray:
    """uint8 [H, W, C] -> [size, size, C]."""
    return to_array(fitted(Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array), size, "crop", method))


def test_resize_cuts_the_central_square() -> None:
    array = np.zeros((4, 10, 3), np.uint8)
    array[:, 3:7] = 200
    assert np.array_equal(resized(array, 8), np.full((8, 8, 3), 200))
    assert np.array_equal(resized(array.transpose(1, 0, 2), 2), np.full((2, 2, 3), 200))


def test_resize_to_the_same_size_changes_nothing() -> None:
    array = gradient(7, 7)
    assert np.array_equal(resized(array, 7), array)
    assert np.array_equal(resized(array[:, :, :1], 7), array[:, :, :1])


def test_resize_is_pillows_lanczos() -> None:
    array = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    expected = Image.fromarray(array).resize((13, 13), Image.Resampling.LANCZOS)
    assert np.array_equal(resized(array, 13), np.asarray(expected))


def test_masks_keep_their_values() -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (37, 37, 1))
    small = resized(mask, 16, Image.Resampling.NEAREST)
    assert small.shape == (16, 16, 1) and set(np.unique(small)) <= {0, 255}


def test_image_keys() -> None:
    assert image_key(KEY, KEY) == f"images/ab/{KEY}.png"
    assert image_key("falls-1", KEY) == "images/ab/falls-1.ab345678.png"
    assert re.fullmatch(r"images/ab/a_b~[0-9a-f]{12}\.ab345678\.png", image_key("a/b", KEY))
    assert re.fullmatch(r"images/ab/n{100}~[0-9a-f]{12}\.ab345678\.png", image_key("n" * 101, KEY))


def test_a_row_made_anew_does_not_overwrite_the_picture_that_counts() -> None:
    assert image_key("falls-1", "a" * 64) != image_key("falls-1", "b" * 64)


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), min_size=2, max_size=30, unique=True))
def test_two_ids_never_share_a_key_and_all_are_plain_names(ids: list[str]) -> None:
    ids = [*ids, "a/b", "a_b", "..", "._", ".tmp-x", "_tmp-x", "x" * 100, "x" * 101, "a b"]
    ids = list(dict.fromkeys(ids))
    keys = [image_key(row_id, KEY) for row_id in ids]
    assert len(set(keys)) == len(ids)
    assert all(re.fullmatch(r"images/ab/[A-Za-z0-9_-][A-Za-z0-9._~-]*\.png", key) and len(key) < 200 for key in keys)
