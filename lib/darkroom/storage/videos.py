"""Videos as MP4 bytes, and the names they lie under."""

from __future__ import annotations

import io

import numpy as np

from darkroom.storage.images import image_key

QUALITY = "18"  # x264's rate factor: about where an eye sees no difference any more
BT709, LIMITED = 1, 1  # as H.264 numbers the colours of high definition, and levels 16 .. 235


def encode_mp4(frames: np.ndarray, fps: int) -> bytes:
    """uint8 [F, H, W, 3] as an MP4 file that browsers play: H.264, yuv420p. Its bytes are not promised: now
    and then the coder decides otherwise for the same frames.

    Colour is kept for two by two pixels, so an odd side gets its last row or column once more.
    """
    import av  # here and not at the top: whoever makes pictures need not wait for it

    count, height, width, channels = frames.shape
    assert frames.dtype == np.uint8 and channels == 3 and count, f"{frames.dtype} {frames.shape}"
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # One thread: by how many a frame is cut decides its bytes.
        stream = container.add_stream("libx264", rate=fps, options={"crf": QUALITY, "threads": "1"})
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        for pixels in even:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())
    return file.getvalue()


def video_key(row_id: str, row_key: str) -> str:
    """Where a row's video lies in its run: beside its first frame, see `image_key`."""
    return image_key(row_id, row_key).removesuffix(".png") + ".mp4"
