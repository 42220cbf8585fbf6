"""The folder a run's page is written to, its tiles, and rows.js, in which the page finds the rows it shows."""

from __future__ import annotations

import hashlib
import io
import json
import re
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from darkroom.report.captions import details, flags, score
from darkroom.report.rows import Shown
from darkroom.storage import NotFound, Store, image_key_of, open_store

LARGEST_TILE = 256  # pixels; of larger pictures the page has a small one, and a large one where it is looked at
LONGEST_ROW = 100_000  # characters of JSON; a page must open, whatever a prompt holds
LARGEST_NUMBER = 2**53 - 1  # that a script reads as it is; a seed may have 63 bits
OURS = b'<meta name="generator" content="Darkroom">'
_DRAWN = re.compile(r"(tiles|sheets|animations)/[A-Za-z0-9_.-]+")


class Desk:
    """Where the page of a run is written: RUN/report, or another folder. ValueError if that has a page not ours.

    beside: may the page link what lies in the run? A page that is copied off S3, or lies elsewhere, may not.
    """

    def __init__(self, run: Store, out: str = "") -> None:
        self._run = run
        self.store, self._folder = (open_store(out), "") if out else (run, "report/")
        self.beside = not out and not run.root.startswith("s3://")
        self._written: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._redrawn = self._has_page()

    @property
    def index(self) -> str:
        """The uri of the page."""
        return self.store.uri(f"{self._folder}index.html")

    def write(self, name: str, data: bytes) -> None:
        self.store.write(f"{self._folder}{name}", data)
        self._written.add(name)

    def picture(self, picture: np.ndarray, shown: Shown | None = None) -> dict[str, Any]:
        """Writes a picture, uint8 [H, W, 3], once however often it is shown: a link to its tile, `src`, with the tile's
        `size`, and to the whole, `full`. shown: the row whose very picture it is, not copied where it lies near."""
        image = Image.fromarray(picture)
        small = image.copy()
        small.thumbnail((LARGEST_TILE, LARGEST_TILE), Image.Resampling.LANCZOS)
        src = full = self._png(small)
        if small.size != image.size:
            own = shown.row["image_uri"] if shown and self.beside else ""
            full = f"../{quote(image_key_of(own))}" if own else self._png(image)
        return {"src": src, "full": full, "size": small.size}

    def video(self, shown: Shown) -> str:
        """A link to the row's video, which is copied where the page may not link what lies in the run; "" where it has
        none, or it is gone."""
        if not shown.row["video_uri"]:
            return ""
        key = image_key_of(shown.row["video_uri"])
        if self.beside:
            return f"../{quote(key)}"
        try:
            data = self._run.read(key)
        except NotFound:
            return ""
        name = f"tiles/{hashlib.sha256(data).hexdigest()[:24]}.mp4"
        self.write(name, data)
        return name

    def row(self, shown: Shown) -> int:
        """The row's place in rows.js."""
        self._rows.append(row_facts(shown))
        return len(self._rows) - 1

    def finish(self, html: str) -> None:
        """The page last, so that an earlier one keeps its pictures till then; what it alone had goes."""
        lines = ",\n".join(json.dumps(row) for row in self._rows)
        self.write("rows.js", f"darkroomRows([\n{lines}\n]);\n".encode())
        self.write("index.html", html.encode())
        if not self._redrawn:
            return
        old = {key.removeprefix(self._folder) for key in self.store.list(self._folder)}
        gone = sorted(f"{self._folder}{name}" for name in old - self._written if _DRAWN.fullmatch(name))
        self.store.delete(*gone)

    def _png(self, image: Image.Image) -> str:
        """Named by its content: ids may hold anything."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        name = f"tiles/{hashlib.sha256(buffer.getvalue()).hexdigest()[:24]}.png"
        if name not in self._written:
            self.write(name, buffer.getvalue())
        return name

    def _has_page(self) -> bool:
        try:
            page = self.store.read(f"{self._folder}index.html")
        except NotFound:
            return False
        if self.store is not self._run and OURS not in page[:1000]:
            raise ValueError(f"{self.index} is a page of something else; wanted a folder of the report's own")
        return True


def row_facts(shown: Shown) -> dict[str, Any]:
    """What the large view says of a row. row: as a manifest has it, None where it is too long for a page; whole: those
    of its numbers that a script would round, as texts."""
    named = {"id": shown.row["id"]} if shown.row["id"] != shown.row["key"] else {}
    row = {**named, "task": shown.parameters["task"], **shown.parameters}
    row = {name: value for name, value in row.items() if value != ""}
    fits = len(json.dumps(row)) <= LONGEST_ROW
    large = {name: str(value) for name, value in row.items() if isinstance(value, int) and value > LARGEST_NUMBER}
    return {
        "id": shown.row["id"][:LONGEST_ROW],
        "row": row if fits else None,
        "whole": large if fits else {},
        "key": shown.row["key"],
        "flags": flags(shown),
        "score": score(shown),
        "evaluations": shown.row.get("evaluations"),
        "record": details(shown),
    }
