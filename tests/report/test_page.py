from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from darkroom.jobs import report as report_job
from PIL import Image

from darkroom.manifest import parse_task, row_key
from darkroom.report.captions import details, flags, score
from darkroom.report.page import write_report
from darkroom.report.rows import Shown
from darkroom.runs.reading import NoRun
from darkroom.storage import Store, encode_png, open_store
from report_runs import ERROR, NASTY, ODD_ID, ROWS, VIEWS, make_run, picture
from runs import next_owner


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
    first, *others = said.splitlines()
    assert first == f"10 rows, the report is at {store.uri('report/index.html')}"
    assert [f"`aws s3 sync {store.uri('report')} report`" in line for line in others] == [True] * ("s3:" in store_uri)
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
    beside = [link for link in links if link.startswith("../")]
    assert bool(beside) == (not store_uri.startswith("s3:")), "what is copied off a bucket has no run beside it"
    assert all(store.exists(link.removeprefix("../")) for link in beside)
    links = [link for link in links if link not in beside]
    for link in links:
        assert re.fullmatch(r"(tiles|sheets)/[A-Za-z0-9_.]+", link)
        assert store.exists(f"report/{link}"), link
    anchors = [link.removeprefix("#") for link in page.values("href") if link.startswith("#")]
    assert anchors and set(anchors) <= set(page.values("id"))
    written = {key.removeprefix("report/") for key in store.list("report/")}
    assert written == {"index.html", "rows.js", *links}


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
    assert "/somewhere/<demo>.yaml" in page.text["about"]
    assert any(given.get("alt") == NASTY for _, given in page.elements)
    assert any(ODD_ID in str(given.get("data-more")) for _, given in page.elements)


def test_captions_say_prompts_and_parameters(run: Store) -> None:
    write_report(run.root)
    text = {section: " ".join(text.split()) for section, text in Page(run).text.items()}
    assert "a blue three seed 6 · guidance 3 · negative prompt blurry" in text["text_to_image"]
    assert "Unless said otherwise: sampler ddpm · size 48 px · stride 30." in text[""], "said once for all sections"
    assert "2 rows, all shown. Contact sheet" in text["text_to_image"]
    assert "start 1 start 3 start 5 source a seven seed 0" in text["image_to_image"]
    assert "identity an old man flip vertical a campfire" in text["anagram"]
    assert "near from far a two detail alone a six" in text["hybrid"]
    assert "image in/x.png" in text["upscale"] and "mask in/m.png" in text["inpaint"]


def test_the_header_of_a_finished_run(run: Store) -> None:
    run.write("summary.json", json.dumps({"seconds": 1234.5, "images_per_second": 2.5, "evaluations": 678}).encode())
    write_report(run.root)
    head = " ".join(Page(run).text["about"].split())
    for fact in ("if-xs", "rev-1", "4 March 2026, 05:06 UTC", "1,234.5 seconds", "2.50 images per second", "678"):
        assert fact in head
    assert "Upscaling 1 1" in head and "Text to image 2 \N{EN DASH}" in head and "10 rows 9 1" in head


def test_the_header_of_a_run_that_is_not_finished(run: Store) -> None:
    write_report(run.root)
    assert "not finished" in Page(run).text["about"]


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
    assert {"#figure-1", "#figure-2"} <= set(page.values("href"))


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


def test_pictures_that_are_not_square_keep_their_shape(tmp_path: Path) -> None:
    swept = [(scale, seed) for scale in (1, 4) for seed in (0, 1)]
    asked = {"task": "text_to_image", "prompt": "a seven"}
    rows = [{**asked, "guidance": scale, "seed": seed, "id": f"all/{scale} {seed}"} for scale, seed in swept]
    wide, tall = picture(0, 96)[:48], picture(1, 96)[:, :48]
    pictures = [picture(number, 128)[:64] for number in range(4)] + [wide, tall]
    rows += [{**asked, "id": "wide"}, {**asked, "id": "tall", "seed": 1}]
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", rows, pictures=pictures)
    write_report(store.root)
    page = Page(store).elements
    shown = [(given["width"], given["height"]) for tag, given in page if tag == "img" and "width" in given]
    assert shown[-6:] == [("128", "64")] * 4 + [("96", "48"), ("48", "96")]
    sheet = read_picture(store, "sheets/text_to_image.png")
    assert np.array_equal(sheet[88 + 24 : 88 + 72, 32:128], wide)
    assert np.array_equal(sheet[88:184, 156 + 24 : 156 + 72], tall)


def test_guidance_is_drawn_in_curves_with_their_numbers(tmp_path: Path) -> None:
    swept = [(scale, seed) for scale in (1, 4, 9) for seed in (0, 1)]
    rows = [
        {"task": "text_to_image", "prompt": "a red seven", "guidance": scale, "seed": seed, "id": f"cfg/{scale} {seed}"}
        for scale, seed in swept
    ]
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", rows)
    write_report(store.root)
    page = Page(store)
    links = page.values("src") + page.values("href")
    curves = list(dict.fromkeys(link for link in links if link.startswith("sheets/figure-1-")))
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
    shown = Shown(_written(RECORD) | {"alignment": 0.75, "concealment": 0.8}, {}, None, 0)
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
    bare = Shown({"stages": "[]", "flags": [], "scores": "{}", "alignment": None, "concealment": None}, {}, None, 0)
    assert (flags(bare), score(bare), details(bare)) == ([], {}, [])


def test_the_record_of_a_row_is_beside_the_page(tmp_path: Path) -> None:
    row = {"task": "anagram", "views": VIEWS, "id": "one"}
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", [row], record=RECORD)
    write_report(store.root)
    text = " ".join(Page(store).text["anagram"].split())
    assert text.endswith("alignment 0.750 · concealment 0.800 nsfw prompt truncated one")
    (facts,) = rows_beside(store)
    assert facts["record"][0].startswith("stage 1: steps 34")
    assert "view 1: 0.900  0.100" in facts["record"] and "seed 6: alignment 0.750, kept" in facts["record"]
    assert facts["score"] == {"alignment": "0.750", "concealment": "0.800"}


def rows_beside(store: Store, folder: str = "report/") -> list[dict[str, Any]]:
    """What rows.js hands to the page."""
    text = store.read(f"{folder}rows.js").decode()
    return json.loads(text.removeprefix("darkroomRows(").rstrip().removesuffix(");"))


def test_the_page_has_every_row_as_a_manifest_has_it(run: Store) -> None:
    write_report(run.root)
    rows = {facts["key"]: facts["row"] for facts in rows_beside(run)}
    assert len(rows) == 9
    for key, row in rows.items():
        assert row_key(parse_task(row), "rev-1", "1") == key
    assert [row["id"] for row in rows.values() if "id" in row] == [ODD_ID]


def test_long_prompts_do_not_swell_the_page(tmp_path: Path) -> None:
    views = [{"view": "patch_permute", "seed": seed, "prompt": "<b>seven</b> " * 1500} for seed in range(8)]
    row = {"task": "anagram", "views": views, "size": 48}
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", [row])
    write_report(store.root)
    assert len(store.read("report/index.html")) + len(store.read("report/rows.js")) < 100_000
    assert rows_beside(store)[0]["row"] is None
    assert "<b>seven</b> <b>seven</b>" in Page(store).text["anagram"]


def test_a_report_elsewhere(run: Store, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    assert write_report(run.root, out=str(folder)) == f"10 rows, the report is at {folder}/index.html"
    page = (folder / "index.html").read_text()
    assert not [*run.list("report/")]
    assert "../" not in page, "the run may not be beside it"
    assert run.uri("run.json") in page
    old = {path.name for path in (folder / "tiles").iterdir()}
    (folder / "notes.txt").write_text("not ours")
    write_report(run.root, out=str(folder), per_task=1)
    assert {path.name for path in (folder / "tiles").iterdir()} < old
    assert (folder / "notes.txt").exists()


def test_a_page_of_something_else_is_not_replaced(run: Store, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(ValueError, match="a page of something else"):
        write_report(run.root, out=str(tmp_path))
    assert (tmp_path / "index.html").read_text() == "<h1>mine</h1>"


@pytest.mark.parametrize("images", ["objects", "inline"])
def test_large_pictures_have_small_ones_on_the_page(tmp_path: Path, images: str) -> None:
    large, row = picture(3, 300), {"task": "text_to_image", "prompt": "a seven"}
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", [row], images=images, pictures=[large])
    write_report(store.root)
    page = Page(store)
    (link,) = page.pictures["text_to_image"]
    (full,) = [str(given["href"]) for _, given in page.elements if given.get("class") == "shown"]
    assert read_picture(store, link).shape == (256, 256, 3)
    assert full.startswith("../images/" if images == "objects" else "tiles/")
    assert np.array_equal(np.array(Image.open(Path(store.root) / "report" / full)), large)


def test_what_moves_is_written_linked_and_goes_again(run: Store) -> None:
    report_job.main(run.root, animate="webp")
    page = Page(run)
    linked = {link for link in page.values("href") if link.startswith("animations/")}
    assert linked == {"animations/anagram-1.webp", "animations/image_to_image-1.webp"}
    assert {key.removeprefix("report/") for key in run.list("report/animations/")} == linked
    assert set(page.values("data-animation")) == linked
    report_job.main(run.root)
    assert not [*run.list("report/animations/")]


@pytest.mark.parametrize("view", ["patch_permute", "square_hinge"])
def test_an_anagram_finer_than_a_shrunk_picture_has_no_animation(tmp_path: Path, view: str) -> None:
    views = [{"view": "identity", "prompt": "a two"}, {"view": view, "pieces": 385, "prompt": "a six"}]
    row = {"task": "anagram", "views": views}
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", [row], pictures=[picture(0, 400)])
    write_report(store.root, animate="gif")
    assert len(Page(store).pictures["anagram"]) == 2 and not [*store.list("report/animations/")]


def test_sections_come_in_the_manifests_order(tmp_path: Path) -> None:
    rows = [
        {"task": "anagram", "views": VIEWS, "id": "one"},
        {"task": "text_to_image", "prompt": "a seven", "id": "two"},
        {"task": "text_to_image", "prompt": "a six", "id": "last figure/three"},
        {"task": "text_to_image", "prompt": "a two", "id": "zero"},
    ]
    store = make_run(str(tmp_path / "run"), tmp_path / "manifest", rows)
    lines = [json.dumps({"id": row_id}).encode() for row_id in ("zero", "one", "two", "last figure/three")]
    store.write("manifest/plan/000000.jsonl", b"\n".join(lines))
    write_report(store.root)
    page = Page(store)
    assert list(page.pictures) == ["text_to_image", "anagram", "figure-1"]
    assert page.text["figure-1"].split()[:2] == ["Last", "figure"]
    assert_same([read_picture(store, link) for link in page.pictures["text_to_image"]], picture(3), picture(1))


@pytest.mark.parametrize("out", ["", "page"])
def test_the_page_plays_videos(tmp_path: Path, out: str) -> None:
    """Beside the run they are linked, elsewhere copied; either way they are there, and the page opens from disk."""
    row = {"task": "text_to_video", "prompt": "a red seven", "id": "seven"}
    store = make_run(str(tmp_path / "run"), tmp_path, [row])
    folder = str(tmp_path / out) if out else ""
    write_report(str(tmp_path / "run"), out=folder)
    page = tmp_path / (out or "run/report")
    html = (page / "index.html").read_text()
    (video,) = re.findall(r"<video controls loop muted[^>]* src=\"([^\"]+)\"", html)
    (stored,) = (tmp_path / "run" / "images").rglob("*.mp4")
    assert (page / video).read_bytes() == stored.read_bytes()
    assert f'data-video="{video}"' in html and "2, 8 a second" in html
    assert store.exists("run.json")
