"""What no page may fall over: words that would be markup, or fill a screen; runs that are not whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from darkroom.runs import to_table
from darkroom.studio.settings import Settings
from hostile.pictures import SIGNATURE, small_png
from report_runs import NASTY, make_run
from runs import commit, result

WORDS = {
    "markup": NASTY,
    "markdown": "# a ![x](http://127.0.0.1:9/x.png) [here](javascript:alert(1)) **b** :red[red] $x^2$ `code` | a |",
    "right to left": "שבע אדום על רקע לבן مرحبا \u202egnp.exe\u202c",
    "emoji": "7️⃣ 👩‍👩‍👧‍👦 🏳️‍🌈 z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍a̴̵̜̰͔ͫ͗͢l̠ͨͧͩ͘g̴͕̟͈o",
    "long": "a red seven " * 1_666,
    "one word": "x" * 20_000,
}
ROWS = [{"task": "text_to_image", "prompt": words, "id": f"{name} <b>"} for name, words in WORDS.items()]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    store = make_run(str(folder / "runs/run"), folder, ROWS)
    huge = {"id": "huge", "key": "0" * 64, "row": {"task": "text_to_image"}}  # no manifest takes a prompt so long
    text = "<b>a red seven</b> " * 250_000
    commit(store, "huge", to_table([result(huge, "failed", error=text, error_class="input", prompts=[text])]))
    return folder / "runs/run"


def page(name: str, place: Path, **address: str) -> AppTest:
    """A page of the studio on a folder of runs; whatever it says, it is not an exception."""

    def script(name: str) -> None:
        import importlib

        import streamlit as st

        from darkroom.storage import StorageError
        from darkroom.studio import settings

        try:
            importlib.import_module(f"darkroom.studio.pages.{name}").page(settings.read())
        except (StorageError, ValueError) as error:  # as the app has it
            st.error(str(error))

    Settings(str(place)).write()
    app = AppTest.from_function(script, kwargs={"name": name}, default_timeout=120)
    app.query_params.update(address)
    app.run()
    assert not app.exception, app.exception
    return app


def weight(app: AppTest) -> int:
    """Characters of what a page sends to the browser, but for pictures."""
    kinds = (app.markdown, app.text, app.code, app.caption, app.error, app.warning, app.json)
    return sum(len(str(element.value)) for kind in kinds for element in kind)


@pytest.mark.parametrize("name", WORDS)
def test_words_of_people_stay_words_and_a_page_opens_whatever_a_row_holds(good: Path, name: str) -> None:
    app = page("runs", good.parent, row=f"{name} <b>")
    assert not app.error and weight(app) < 300_000
    for element in app.markdown:
        assert not element.allow_html and WORDS[name][:20] not in element.value, "as Markdown it would be another thing"
    assert any(text.value == WORDS[name][:1000] for text in app.text)
    assert json.loads(app.json[0].value)["prompts"][0][:10_000] == WORDS[name][:10_000], "all of it is on record below"


def test_the_gallery_of_them(good: Path) -> None:
    app = page("runs", good.parent)
    assert not app.error and weight(app) < 10_000
    assert f"**{len(ROWS) + 1}** of {len(ROWS) + 1} rows" in app.markdown[0].value
    assert weight(page("runs", good.parent, row="huge")) < 100_000


def each(pattern: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Changes every file of a run that fits."""

    def spoil(run: Path) -> None:
        found = list(run.glob(pattern))
        assert found, pattern
        for path in found:
            change(path)

    return spoil


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BOMB = small_png(60_000, 60_000, bytes(1000))
SPOILT = {
    "pictures cut": each("images/**/*.png", cut),
    "pictures empty": each("images/**/*.png", lambda path: path.write_bytes(b"")),
    "pictures gone": lambda run: shutil.rmtree(run / "images"),
    "pictures are folders": each("images/**/*.png", into_a_folder),
    "pictures are bombs": each("images/**/*.png", lambda path: path.write_bytes(BOMB)),
    "pictures are text": each("images/**/*.png", lambda path: path.write_bytes(SIGNATURE + b"<script>")),
    "pictures are devices": each("images/**/*.png", lambda path: (path.unlink(), path.symlink_to("/dev/zero"))),
    "metadata cut": each("metadata/*", cut),
    "metadata empty": each("metadata/*", lambda path: path.write_bytes(b"")),
    "metadata gone": lambda run: shutil.rmtree(run / "metadata"),
    "commits cut": each("commits/*", cut),
    "commits gone": lambda run: shutil.rmtree(run / "commits"),
    "run.json cut": each("run.json", cut),
    "run.json empty": each("run.json", lambda path: path.write_bytes(b"")),
    "run.json deep": each("run.json", lambda path: path.write_bytes(b"[" * 200_000)),
    "run.json a list": each("run.json", lambda path: path.write_bytes(b"[1]")),
    "run.json bare": each("run.json", lambda p: p.write_text(json.dumps(dict.fromkeys(json.loads(p.read_text()), 7)))),
    "run.json alone": lambda run: [shutil.rmtree(path) for path in run.iterdir() if path.is_dir()],
    "a training by its name": each("run.json", lambda path: path.write_bytes(b'{"kind": "training"}')),
}


@pytest.mark.slow  # half a minute in all
@pytest.mark.parametrize("how", SPOILT)
def test_a_run_that_is_not_whole_is_a_sentence_or_its_rest(good: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(good, tmp_path / "run")
    SPOILT[how](tmp_path / "run")
    for name in ("runs", "models"):
        app = page(name, tmp_path)
        assert weight(app) < 20_000
    app = page("runs", tmp_path, row="markup <b>")
    assert weight(app) < 300_000


def test_addresses_that_say_nothing(good: Path) -> None:
    page("runs", good.parent, row="no such <b>", run="../../etc", beside="\u202e")
    page("runs", good.parent, page="9" * 50, order="id; DROP", where="x' OR 1=1; --")
    page("models", good.parent, show="<b>")
