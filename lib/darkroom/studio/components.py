"""Where a page's own scripts move something: the gallery, and the viewer of one picture or of a series."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import Any

import streamlit as st


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


def gallery(rows: list[dict[str, Any]], key: str) -> str | None:
    """Draws what `shown_rows.thumbnails` gives. The id of the row that was pressed in this run of the script."""
    result = _gallery(key=key, data={"rows": rows, "page": _digest(rows)}, on_open_change=lambda: None)
    return result.open


def viewer(shown: dict[str, Any], key: str) -> None:
    """Draws what `shown_rows.large` gives, or {"frames": ...} of `shown_rows.frames`."""
    _viewer(key=key, data=shown | {"key": _digest(shown)})


def _digest(data: Any) -> str:
    """By it a script knows what it has drawn already."""
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()
