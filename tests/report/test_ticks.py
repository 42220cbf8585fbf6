from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.report.ticks import write_ticks_page
from darkroom.storage import encode_png, open_store

TITLES = {"class_accuracy": "class accuracy", "size": "size of the weights, bytes"}


def check(metric: str, value: float, passed: bool = True, champion: float | None = None) -> dict[str, Any]:
    return {"metric": metric, "value": value, "bound": "at least 0.5", "champion": champion, "margin": 0.1,
            "gain": None, "worst_gain": None, "passed": passed, "reason": "" if passed else "too low"}  # fmt: skip


def tick(out: Path, day: int, outcome: str, accuracy: float | None = None, **more: Any) -> None:
    record: dict[str, Any] = {
        "id": f"202611{day:02}T020000Z",
        "pipeline": "digits <nightly>",
        "began_at": "2026-11-21T02:00:00+00:00",
        "ended_at": "2026-11-21T02:20:00+00:00",
        "outcome": outcome,
        "reason": "",
        "steps": {},
        "rounds": [],
    }
    if accuracy is not None:
        spread = [accuracy - 0.1, accuracy + 0.1]
        record["steps"] = {
            "snapshot": {"rows": {"train": 60_000, "test": 10_000}, "bad": 3},
            "evaluate": {
                "page": str(out / "ticks" / record["id"] / "candidate"),
                "settings": {"count": 500, "steps": 30, "guidance": 5.0},
                "evaluator": 1,
                "metrics": {"class_accuracy": {"mean": accuracy, "interval": spread, "by_seed": spread}},
            },
        }
        passed = outcome == "promoted"
        record["rounds"] = [{"champion": None, "measured": None, "passed": passed,
                             "table": [check("class_accuracy", accuracy, passed)]}]  # fmt: skip
    open_store(str(out)).write(f"ticks/{record['id']}.json", json.dumps(record | more).encode())


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for key, value in attributes if key in ("href", "src")]


def test_the_page_of_many_ticks(tmp_path: Path) -> None:
    tick(tmp_path, 19, "promoted", 0.8, reason="digits@1")
    tick(tmp_path, 20, "skipped", reason="no new data")
    tick(tmp_path, 21, "refused", 0.3, reason="class_accuracy: 0.3 is not at least 0.5")
    for key in ("20261119T020000Z", "20261121T020000Z"):
        sheet = encode_png(np.zeros((8, 8, 3), np.uint8))
        open_store(str(tmp_path)).write(f"ticks/{key}/candidate/samples.png", sheet)
        open_store(str(tmp_path)).write(f"ticks/{key}/candidate/index.html", b"")
    page = Path(write_ticks_page(str(tmp_path), TITLES)).read_text()
    assert "digits &lt;nightly&gt;" in page and "1 promoted, 1 skipped, 1 refused" in page
    lines = page[page.index("<tbody>") :]
    assert lines.index("21 November") < lines.index("20 November") < lines.index("19 November")
    assert "The tick of 21 November 2026, 02:00: refused, against no champion" in page
    links = [link for link in Links(page).found if not link.startswith("#")]
    assert "page/class_accuracy.png" in links and "page/size.png" not in links
    assert all((tmp_path / link).exists() for link in links), "every link leads somewhere in the folder"


def test_the_page_before_anything_was_measured(tmp_path: Path) -> None:
    tick(tmp_path, 19, "failed", reason="no data")
    page = Path(write_ticks_page(str(tmp_path), TITLES)).read_text()
    assert "no data" in page and "History" not in page and "Gate" not in page


def test_one_dot_is_no_curve(tmp_path: Path) -> None:
    tick(tmp_path, 19, "promoted", 0.8)
    page = Path(write_ticks_page(str(tmp_path), TITLES)).read_text()
    assert "History" not in page and "Gate" in page and not (tmp_path / "page").exists()
