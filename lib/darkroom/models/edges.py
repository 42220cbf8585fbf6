"""The edges of a picture, which control networks are trained to follow."""

from __future__ import annotations

import numpy as np

THRESHOLDS = (100.0, 200.0)  # of canny, low and high: where a row names none, and of the network that is trained here


def canny(picture: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges of a picture uint8 [H, W, 3], RGB: 255 on them and 0 elsewhere, in three equal channels. OpenCV takes each
    pixel's strongest channel, so that a colour picture has other edges than its greys."""
    import cv2

    edges = cv2.Canny(np.ascontiguousarray(picture), low, high)
    return np.ascontiguousarray(np.broadcast_to(edges[..., None], picture.shape))
