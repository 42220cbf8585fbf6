from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.batch.planned_rows import prompts_of
from darkroom.batch.row_state import Failure, RowState, Source, StageRecord
from darkroom.batch.write_results import WriteOptions, write_unit
from darkroom.manifest import parse_task, row_key
from darkroom.report.captions import details, flags, score
from darkroom.report.page import write_report
from darkroom.report.rows import Shown
from darkroom.runs import Shard
from darkroom.runs.reading import NoRun
from darkroom.storage import Store, encode_png, open_store
from runs import next_owner

ODD_ID = 'odd / id #1?&%20 ü "quoted"'
NASTY = 'a <script>alert("x")</script> & a "red" seven'
VIEWS = [{"view": "identity", "prompt": "an old man"}, {"view": "flip_vertical", "prompt": "a campfire"}]
PARTS = [{"component": "low_pass", "prompt": "a two"}, {"component": "high_pass", "prompt": "a six"}]
IMAGE = {"image": "in/x.png", "prompt": "a seven"}
ROWS: list[dict[str, Any]] = [
    {"task": "text_to_image", "prompt": NASTY, "id": ODD_ID, "seed": 5},
    {"task": "text_to_image", "prompt": "a blue three", "guidance": 3, "seed": 6, "negative_prompt": "blurry"},
    *({"task": "image_to_image", **IMAGE, "start": start} for start in (1, 3, 5)),
    {"task": "inpaint", **IMAGE, "mask": "in/m.png"},
    {"task": "anagram", "views": VIEWS},
    {"task": "hybrid", "components": PARTS},
    {"task": "upscale", **IMAGE},
    {"task": "upscale", "prompt": "a zero", "image": "in/gone.png", "id": "bad <i>row</i>"},
]
ERROR = "there is no file in/gone.png <b>!"


def picture(number: int, side: int = 48) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)


def make_run(
    uri: str, folder: Path, rows: list[dict[str, Any]], record: dict[str, Any] | None = None, **delivery: Any
) -> Store:
    """A run as the job's last stage leaves it; row N has picture(N), a row of gone.png has failed.

    record: what the stages and a scorer have written of every row."""
    (folder / "in").mkdir(parents=True)
    for name in ("x", "m"):
        (folder / f"in/{name}.png").write_bytes(encode_png(picture(ord(name))))
    how = WriteOptions(uri, "plan", "if-xs", "rev-1", "ddpm", **delivery)
    made = [_made(number, row, folder, how) for number, row in enumerate(rows)]
    for state in made if record else ():
        state.stages = [StageRecord(**stage) for stage in record["stages"]]
        state.flags, state.scores = record["flags"], record["scores"]
    store = open_store(uri)
    run = {
        "created_at": "2026-03-04T05:06:07+00:00",
        "plan": how.plan,
        "manifest": {"uri": "/somewhere/<demo>.yaml"},
        "model": {"name": "if-xs", "revision": "rev-1"},
        "options": {},
    }
    store.write("run.json", json.dumps(run).encode())
    half, writer = len(made) // 2, next_owner(store)
    for unit, states in enumerate(part for part in (made[:half], made[half:]) if part):
        receipt = write_unit([replace(state, unit=unit) for state in states], how)
        writer.commit([Shard.from_json(receipt.shard)])
    return store


def _made(number: int, row: dict[str, Any], folder: Path, how: WriteOptions) -> RowState:
    task = parse_task(row)
    key = row_key(task, how.revision, "1")
    row = task.canonical()
    made = RowState(0, task.id or key, key, row, prompts_of(row))
    if "gone.png" in str(row):
        return replace(made, failure=Failure("input", ERROR))
    made.picture = np.ascontiguousarray(picture(number).transpose(2, 0, 1), np.float32) / 127.5 - 1
    if task.sources():
        source = folder / task.sources()[0]
        made.source = Source(str(source), hashlib.sha256(source.read_bytes()).hexdigest())
    return made


def _written(record: dict[str, Any]) -> dict[str, Any]:
    """As a result row has it."""
    return {name: value if name == "flags" else json.dumps(value) for name, value in record.items()}


class Page(HTMLParser):
    """What a browser makes of a page: its elements as (tag, attributes), the text of each section and its figures."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.source = store.read("report/index.html").decode()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {"": ""}
        self.pictures: dict[str, list[str]] = {}
        self._section, self._silent = "", False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.elements.append((tag, given))
        self._silent = tag in ("script", "style")
        if tag == "section":
            self._section = str(given["id"])
            self.text[self._section] = ""
        if tag == "img" and "width" in given:
            self.pictures.setdefault(self._section, []).append(str(given["src"]))

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text[self._section] += data + " "

    def values(self, name: str) -> list[str]:
        return [str(given[name]) for _, given in self.elements if name in given]


def read_picture(store: Store, link: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(store.read(f"report/{link}"))))


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return make_run(str(tmp_path / "run"), tmp_path / "manifest", ROWS)


def test_a_report_of_every_task(store_uri: str, tmp_path: Path) -> None:
    store = make_run(store_uri, tmp_path / "manifest", ROWS)
    said = write_report(store_uri)
    assert said == f"10 rows, the report is at {store.uri('report/index.html')}"
    page = Page(store)
    shown = {task: [read_picture(store, link) for link in links] for task, links in page.pictures.items()}
    x, m = picture(ord("x")), np.where(picture(ord("m")) >= 128, 255, 0)
    assert list(shown) == ["text_to_image", "image_to_image", "inpaint", "anagram", "hybrid", "upscale"]
    assert_same(shown["text_to_image"], picture(0), picture(1))
    assert_same(shown["image_to_image"], picture(2), picture(3), picture(4), x)
    assert_same([shown["inpaint"][0], shown["inpaint"][2]], x, picture(5))
    assert shown["inpaint"][1].shape == m.shape and set(np.unique(shown["inpaint"][1])) == {0, 255}
    assert_same(shown["anagram"], picture(6), picture(6)[::-1])
    assert_same(shown["hybrid"][:1], picture(7))
    assert_same(shown["upscale"], x, picture(8))


def assert_same(found: list[np.ndarray], *wanted: np.ndarray) -> None:
    assert len(found) == len(wanted)
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_every_link_is_relative_and_there(store_uri: str, tmp_path: Path) -> None:
    store = make_run(store_uri, tmp_path / "manifest", ROWS)
    write_report(store_uri)
    page = Page(store)
    links = page.values("src") + [link for link in page.values("href") if not link.startswith("#")]
    assert len(links) > 30
    for link in links:
        assert re.fullmatch(r"(tiles|sheets)/[A-Za-z0-9_.]+", link)
        assert store.exists(f"report/{link}"), link
    anchors = [link.removeprefix("#") for link in page.values("href") if link.startswith("#")]
    assert anchors and set(anchors) <= set(page.values("id"))
    written = {key.removeprefix("report/") for key in store.list("report/")}
    assert written == {"index.html", *links}


def test_the_page_needs_no_network_and_loads_pictures_late(run: Store) -> None:
    write_report(run.root)
    page = Page(run)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page.source)
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe", "object", "base")]
    assert all(given.get("loading") == "lazy" for tag, given in page.elements if tag == "img")


def test_everything_from_the_run_is_escaped(run: Store) -> None:
    write_report(run.root)
    page = Page(run)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not {"i", "b", "demo"} & {tag for tag, _ in page.elements}
    assert NASTY in page.text["text_to_image"] and ODD_ID in page.text["text_to_image"]
    assert "bad <i>row</i>" in page.text["failed"] and ERROR in page.text["failed"]
    assert "/somewhere/<demo>.yaml" in page.text[""]
    assert any(given.get("alt") == NASTY for _, given in page.elements)
    assert any(ODD_ID in str(given.get("data-more")) for _, given in page.elements)


def test_captions_say_prompts_and_parameters(run: Store) -> None:
    write_report(run.root)
    text = {section: " ".join(text.split()) for section, text in Page(run).text.items()}
    assert "a blue three seed 6 · guidance 3 · negative prompt blurry" in text["text_to_image"]
    assert "2 rows, all shown. Unless said otherwise: sampler ddpm · size 48 px · stride 30." in text["text_to_image"]
    assert "start 1 start 3 start 5 source a seven seed 0" in text["image_to_image"]
    assert "identity an old man flip vertical a campfire" in text["anagram"]
    assert "near from far a two detail alone a six" in text["hybrid"]
    assert "image in/x.png" in text["upscale"] and "mask in/m.png" in text["inpaint"]


def test_the_header_of_a_finished_run(run: Store) -> None:
    run.write("summary.json", json.dumps({"seconds": 1234.5, "images_per_second": 2.5, "evaluations": 678}).encode())
    write_report(run.root)
    head = " ".join(Page(run).text[""].split())
    for fact in ("if-xs", "rev-1", "4 March 2026, 05:06 UTC", "1,234.5 seconds", "2.50 images per second", "678"):
        assert fact in head
    assert "Upscaling 1 1" in head and "Text to image 2 \N{EN DASH}" in head and "10 rows 9 1" in head


def test_the_header_of_a_run_that_is_not_finished(run: Store) -> None:
    write_report(run.root)
    assert "not finished" in Page(run).text[""]


def test_the_cap_is_kept_and_said(tmp_path: Path) -> None:
    rows = [{"task": "text_to_image", "prompt": "a red seven", "seed": seed} for seed in range(30)]
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", rows)
    write_report(store.root, per_task=8)
    page = Page(store)
    assert len(page.pictures["text_to_image"]) == 8
    assert "8 of 30 rows are shown, drawn evenly from the whole run." in page.text["text_to_image"]
    everything = {picture(number).tobytes() for number in range(30)}
    assert all(read_picture(store, link).tobytes() in everything for link in page.pictures["text_to_image"])


def test_pictures_inside_the_metadata_are_shown_too(tmp_path: Path) -> None:
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", ROWS, images="inline")
    write_report(store.root)
    assert_same([read_picture(store, link) for link in Page(store).pictures["text_to_image"]], picture(0), picture(1))


def test_a_run_that_was_copied_elsewhere_has_its_pictures(run: Store, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    Path(run.root).rename(moved)
    write_report(str(moved))
    assert len(Page(open_store(str(moved))).pictures["text_to_image"]) == 2


def test_a_picture_that_is_gone_is_a_note(run: Store) -> None:
    run.delete(*run.list("images/"))
    write_report(run.root)
    page = Page(run)
    assert not page.pictures
    assert f"the picture of row {ODD_ID} is gone: images/" in page.text["text_to_image"]


def test_a_second_report_replaces_the_first(run: Store) -> None:
    write_report(run.root)
    before = set(run.list("report/"))
    writer = next_owner(run)
    writer.withdraw(next(iter(writer.log.shards.values())).ids)
    run.write("report/notes.txt", b"not ours")
    write_report(run.root)
    after = set(run.list("report/"))
    assert "report/sheets/text_to_image.png" in before - after
    assert after - before == {"report/notes.txt"}
    assert {f"report/{src}" for src in Page(run).values("src")} <= after


def test_the_contact_sheet_shows_the_tiles(run: Store) -> None:
    write_report(run.root)
    sheet = read_picture(run, "sheets/anagram.png")
    twice = picture(6).repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(sheet[88:184, 32:128], twice)
    assert np.array_equal(sheet[88:184, 134:230], twice[::-1])


def test_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoRun, match=r"run\.json"):
        write_report(str(tmp_path / "nothing"))


def test_rows_of_a_figure_stand_together_under_its_name(tmp_path: Path) -> None:
    views = {"task": "anagram", "views": VIEWS}
    rows = [
        {"task": "text_to_image", "prompt": "a red seven", "steps": 20, "id": "1 steps/twenty"},
        {**views, "id": "2 <views>/one"},
        {"task": "text_to_image", "prompt": "a red seven", "steps": 50, "id": "1 steps/fifty"},
        {"task": "text_to_image", "prompt": "a blue three"},
    ]
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", rows)
    write_report(store.root)
    page = Page(store)
    text = {section: " ".join(text.split()) for section, text in page.text.items()}
    assert list(page.pictures) == ["figure-1", "figure-2", "text_to_image"]
    assert text["figure-1"].startswith("1 steps Text to image. 2 rows, all shown.")
    assert "20 steps 50 steps a red seven seed 0" in text["figure-1"]
    assert text["figure-2"].startswith("2 <views> Anagrams.") and text["figure-2"].endswith("seed 0 one")
    assert_same([read_picture(store, link) for link in page.pictures["figure-1"]], picture(0), picture(2))
    assert len(page.pictures["text_to_image"]) == 1
    assert {"#figure-1", "#figure-2", "#text_to_image"} <= set(page.values("href"))


def test_two_swept_parameters_are_the_axes_of_a_grid(tmp_path: Path) -> None:
    swept = [(sampler, steps) for sampler in ("ddim", "euler") for steps in (10, 20, 30)]
    rows = [
        {
            "task": "text_to_image",
            "prompt": "a seven",
            "sampler": sampler,
            "steps": steps,
            "id": f"all/{sampler} {steps}",
        }
        for sampler, steps in swept
    ]
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", rows)
    store.delete(next(key for key in store.list("images/") if store.read(key) == encode_png(picture(4))))
    write_report(store.root)
    page = Page(store)
    text = " ".join(page.text["figure-1"].split())
    assert "Unless said otherwise: seed 0 · guidance 7 · size 48 px. steps sampler 10 20 30 ddim euler gone" in text
    drawn = [read_picture(store, link) for link in page.pictures["figure-1"]]
    assert_same(drawn, *(picture(number) for number in (0, 1, 2, 3, 5)))
    sheet = read_picture(store, "sheets/figure-1-1.png")
    twice = picture(5).repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(sheet[-194:-2, -194:-2], twice), "the last row's last column, drawn for dense screens"


def test_guidance_is_drawn_in_curves_with_their_numbers(tmp_path: Path) -> None:
    swept = [(scale, seed) for scale in (1, 4, 9) for seed in (0, 1)]
    rows = [
        {"task": "text_to_image", "prompt": "a red seven", "guidance": scale, "seed": seed, "id": f"cfg/{scale} {seed}"}
        for scale, seed in swept
    ]
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", rows)
    write_report(store.root)
    curves = [link for link in Page(store).values("src") if link.startswith("sheets/figure-1-")]
    assert [link.removeprefix("sheets/figure-1-") for link in curves] == [
        "quality.png", "diversity.png", "saturation.png", "1.png"
    ]  # fmt: skip
    apart = [picture(4).astype(float) - picture(5), np.isin(np.stack([picture(4), picture(5)]), (0, 255))]
    last = f"{100 * np.sqrt(np.square(apart[0] / 255).mean()):.1f} % {100 * apart[1].mean():.1f} %"
    text = " ".join(Page(store).text["figure-1"].split())
    assert "guidance quality: the asked digits quality: all that was asked diversity saturation 1 " in text
    assert last in text


RECORD = {
    "stages": [
        {"stage": 1, "steps": 34, "guidance": 7.0, "noise_level": None, "dtype": "float32", "capacity": 32},
        {"stage": 2, "steps": 50, "guidance": 4.0, "noise_level": 250, "dtype": "bfloat16", "capacity": 8},
    ],
    "flags": ["nsfw", "prompt_truncated"],
    "scores": {
        "scorer": "digits", "revision": "abc", "matrix": [[0.9, 0.1], [0.2, 0.75]], "alignment": 0.75,
        "concealment": 0.8, "chosen_seed": 6,
        "candidates": [{"seed": 5, "alignment": 0.25}, {"seed": 6, "alignment": 0.75}],
    },
}  # fmt: skip


def test_what_is_on_record_of_a_row() -> None:
    shown = Shown(_written(RECORD) | {"alignment": 0.75, "concealment": 0.8}, {}, "", None, 0)
    assert flags(shown) == ["nsfw", "prompt truncated"]
    assert score(shown) == {"alignment": "0.750", "concealment": "0.800"}
    assert details(shown) == [
        "stage 1: steps 34, guidance 7, float32",
        "stage 2: steps 50, guidance 4, noise level 250, bfloat16",
        "scored by digits (abc)",
        "view 1: 0.900  0.100",
        "view 2: 0.200  0.750",
        "seed 5: alignment 0.250",
        "seed 6: alignment 0.750, kept",
    ]
    bare = Shown({"stages": "[]", "flags": [], "scores": "{}", "alignment": None, "concealment": None}, {}, "", None, 0)
    assert (flags(bare), score(bare), details(bare)) == ([], {}, [])


def test_the_record_of_a_row_is_on_the_page(tmp_path: Path) -> None:
    row = {"task": "anagram", "views": VIEWS, "id": "one"}
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", [row], record=RECORD)
    write_report(store.root)
    text = " ".join(Page(store).text["anagram"].split())
    assert "alignment 0.750 · concealment 0.800 nsfw prompt truncated one record stage 1: steps 34" in text
    assert "view 1: 0.900 0.100 view 2: 0.200 0.750" in text and "seed 6: alignment 0.750, kept" in text
