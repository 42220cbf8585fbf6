"""Videos as MP4 files, read back by another decoder's rules: H.264, yuv420p."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from darkroom.storage import encode_mp4, video_key


def frames(count: int, height: int, width: int) -> np.ndarray:
    """Each of one colour, [F, H, W, 3], so that what is lost of detail is not looked at."""
    shades = np.linspace([220, 30, 60], [20, 200, 90], count).round().astype(np.uint8)
    return np.broadcast_to(shades[:, None, None], (count, height, width, 3)).copy()


def read(data: bytes) -> tuple[np.ndarray, av.VideoStream]:
    container = av.open(io.BytesIO(data))
    found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(found), container.streams.video[0]


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47)])
def test_frames_come_back(height: int, width: int) -> None:
    given = frames(9, height, width)
    data = encode_mp4(given, 8)
    found, stream = read(data)
    assert found.shape == (9, height + height % 2, width + width % 2, 3)
    assert np.abs(found[:, :height, :width].astype(int) - given).max() <= 8
    assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)
    turned, _ = read(encode_mp4(given[::-1], 8))
    assert np.abs(turned[::-1].astype(int) - found).max() <= 8


def test_a_video_lies_beside_its_first_frame() -> None:
    assert video_key("a b", "ab" * 16) == "images/ab/a_b~" + "c8687a08aa5d.abababab.mp4"
