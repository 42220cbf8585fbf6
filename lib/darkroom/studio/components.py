"""Where a page's own scripts move something: the gallery, the viewer of a picture or a series, a mask."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

import numpy as np
import streamlit as st

from darkroom.storage import encode_png


def _text(*names: str, room: str = "studio") -> str:
    return "\n".join((files(f"darkroom.{room}") / name).read_text() for name in names)


_gallery = st.components.v2.component(
    "darkroom.gallery",
    html='<div class="gallery"></div>',
    css=_text("gallery.css"),
    js=_text("moving.js", "gallery.js"),
)
_viewer = st.components.v2.component(
    "darkroom.viewer",
    html='<div class="viewer"></div>',
    css=_text("viewer.css"),
    js="\n".join([_text("moving.js"), _text("far.js", room="report"), _text("viewer.js")]),
)
_mask = st.components.v2.component(
    "darkroom.mask", html='<div class="mask"></div>', css=_text("mask.css"), js=_text("mask.js")
)


def gallery(rows: list[dict[str, Any]], key: str) -> str | None:
    """Draws what `shown_rows.thumbnails` gives. The id of the row that was pressed in this run of the script."""
    result = _gallery(key=key, data={"rows": rows, "page": _digest(rows)}, on_open_change=lambda: None)
    return result.open


def viewer(shown: dict[str, Any], key: str) -> None:
    """Draws what `shown_rows.large` gives, or {"frames": ...} of `shown_rows.frames`."""
    _viewer(key=key, data=shown | {"key": _digest(shown)})


def mask(picture: np.ndarray, key: str) -> bytes | None:
    """Has a mask drawn on a picture, uint8 [H, W, 3]: a PNG of its size, white where it was painted; None before."""
    address = "data:image/png;base64," + base64.b64encode(encode_png(picture)).decode()
    about = {"source": address, "width": picture.shape[1], "height": picture.shape[0]}
    about["key"] = _digest(about)
    drawn = _mask(key=key, data=about, on_mask_change=lambda: None).mask
    if not drawn or drawn["key"] != about["key"] or not drawn["picture"]:
        return None
    return base64.b64decode(drawn["picture"].partition("base64,")[2])


def _digest(data: Any) -> str:
    """By it a script knows what it has drawn already."""
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()
