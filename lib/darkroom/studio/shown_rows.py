"""Rows as the page's scripts are given them: a thumbnail or the whole picture, and how it moves."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from darkroom.report.captions import in_words
from darkroom.report.desk import row_facts
from darkroom.report.rows import Shown
from darkroom.report.turning import across, angle, places, seen
from darkroom.sampling.views import view_of
from darkroom.storage import StorageError, decode
from darkroom.studio.run_table import RunTable

SMALL = 128  # pixels: larger pictures are shrunk to it where they are one of many, and where their pixels travel
CAPTION = 120  # characters
FRAMES = 48  # pictures of a series
LONGEST = 10_000  # characters of one value on record
_AT_ONCE = 16


def thumbnails(table: RunTable, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For the gallery, of rows of `RunTable.find`."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="thumbnails") as pool:
        return list(pool.map(lambda row: _thumbnail(table, row), rows))


def large(table: RunTable, row: dict[str, Any]) -> dict[str, Any]:
    """One row for the viewer: its picture as it is, and how it moves."""
    shown = _said(row)
    picture, data = _read(table, row, shown)
    if picture is None:
        return shown
    shown |= {"source": _address(data, "image/png"), "crisp": max(picture.shape[:2]) <= SMALL, "size": len(picture)}
    if motion := _motion(row["parameters"], len(picture)):
        shown |= {"motion": motion, "small": _address(_shrunk(picture), "image/webp")}
        if len(picture) > SMALL:  # pixels that travel are coarse: at its ends stands the picture itself
            views = row["parameters"]["views"]
            shown["ends"] = [_address(_encoded(seen(picture, view)), "image/webp") for view in views]
    return shown


def _thumbnail(table: RunTable, row: dict[str, Any]) -> dict[str, Any]:
    shown = _said(row)
    picture, data = _read(table, row, shown)
    if picture is None:
        return shown
    small = max(picture.shape[:2]) <= SMALL
    source = _address(data, "image/png") if small else _address(_shrunk(picture), "image/webp")
    return shown | {"source": source, "crisp": small, "motion": _motion(row["parameters"], len(picture))}


def _said(row: dict[str, Any]) -> dict[str, Any]:
    words = " / ".join(row["prompts"]) or row["id"]
    caption = words if len(words) <= CAPTION else words[: CAPTION - 1] + "…"
    score = "" if row["alignment"] is None else f"{row['alignment']:.3f}"
    return {
        "id": row["id"],
        "caption": caption,
        "task": row["task"],
        "score": score,
        "problem": row["error"][:CAPTION] if row["status"] == "failed" else "",
        "labels": _labels(row["parameters"]),
    }


def _labels(parameters: Mapping[str, Any]) -> list[str]:
    """What each view of an anagram shows."""
    said = []
    for view in parameters.get("views") or ():
        label = view.get("label")
        words = view.get("prompt") or ("" if label is None else f"label {label}")
        said.append(f"{view.get('view', 'identity')}: {words}"[:CAPTION])
    return said


def _read(table: RunTable, row: dict[str, Any], shown: dict[str, Any]) -> tuple[np.ndarray | None, bytes]:
    """A row's picture, uint8 [H, W, 3], and its file; None where there is none, which is then said."""
    if row["status"] == "failed":
        return None, b""
    try:
        data = table.picture(row)
        return decode(data, f"the picture of row {row['id']}"), data
    except (StorageError, ValueError) as error:
        shown["problem"] = str(error)[:CAPTION]
        return None, b""


def _motion(parameters: Mapping[str, Any], side: int) -> dict[str, Any] | None:
    """How an anagram goes from each of its views to each other: by a turn, or pixel by pixel. None of other rows, and
    where the shrunk picture has too few pixels for a view, or nothing is known of a view."""
    views = parameters.get("views") or ()
    if len(views) < 2:
        return None
    side = min(side, SMALL)
    try:
        if any(view_of(view).fits(side) for view in views):
            return None
        ways = [_places(_key(view), side) for view in views]
    except ValueError:
        return None
    return {
        "side": side,
        "places": ways,
        "negated": [view["view"] == "negate" for view in views],
        "turns": [[angle(left, right) for right in views] for left in views],
        "across": [[across(left, right) for right in views] for left in views],
    }


def _key(view: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, value) for name, value in view.items() if name not in ("prompt", "label")))


@lru_cache(maxsize=256)
def _places(view: tuple[tuple[str, Any], ...], side: int) -> str:
    """uint16 [side * side] in base64: by a pixel's place in the picture, its place in the view."""
    return base64.b64encode(places(dict(view), side).astype("<u2").tobytes()).decode()


def _shrunk(picture: np.ndarray) -> bytes:
    image = Image.fromarray(picture)
    image.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS)
    return _encoded(np.asarray(image), lossless=picture.shape == np.asarray(image).shape)


def _encoded(picture: np.ndarray, lossless: bool = False) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=85, lossless=lossless)
    return buffer.getvalue()


def _address(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def frames(table: RunTable, name: str, rows: Sequence[dict[str, Any]], own: str) -> list[dict[str, Any]]:
    """A series of `RunTable.series` for the viewer, of a long one the part about its own row. own: that row's id."""
    first = max(min([row["id"] for row in rows].index(own) - FRAMES // 2, len(rows) - FRAMES), 0)
    rows = rows[first : first + FRAMES]
    shown = thumbnails(table, rows)
    for one, row in zip(shown, rows, strict=True):
        value = row["parameters"].get(name)
        words = "not given" if value is None else in_words(value)
        one |= {"label": f"{name.replace('_', ' ')} {words}"[:CAPTION], "own": row["id"] == own, "motion": None}
    return shown


def record(table: RunTable, row_id: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """A row as a manifest has it, None where it is too long for a page, and all that is on record of it. KeyError;
    StorageError."""
    row = table.row(row_id)
    parameters = json.loads(row["parameters"] or "{}")
    facts = row_facts(Shown(row, parameters, *table.place(row_id))) if "task" in parameters else {}
    parsed = {name: json.loads(row[name] or "null") for name in ("stages", "scores", "controls")}
    whole = row | parsed | {"parameters": parameters, "created_at": str(row["created_at"])}
    return facts.get("row"), {name: _cut(value) for name, value in whole.items() if value not in (None, "", [], {})}


def _cut(value: Any) -> Any:
    """A page must open whatever a row holds."""
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{value[:LONGEST]}… ({len(value):,} characters)"
    if isinstance(value, dict):
        return {name: _cut(item) for name, item in value.items()}
    return [_cut(item) for item in value] if isinstance(value, list) else value
