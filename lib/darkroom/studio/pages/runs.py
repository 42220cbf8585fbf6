"""The page Runs: the pictures of a run found, looked at large, compared, and what failed taken away as a manifest."""

from __future__ import annotations

import json
import shlex
from typing import Any

import streamlit as st
import yaml

from darkroom.phases import plural
from darkroom.runs.failures import failed_rows
from darkroom.studio.components import gallery, viewer
from darkroom.studio.found_runs import find_runs
from darkroom.studio.run_table import PAGE, RunTable, run_version
from darkroom.studio.run_view import ORDERS, View
from darkroom.studio.settings import Settings
from darkroom.studio.shown_rows import frames, large, record, thumbnails
from darkroom.studio.text import plain

_LOOKED = 30.0  # seconds that a list of runs stands
_KEPT = 3  # runs in memory
_SCROLLED = 2_000  # characters of a row from which on it scrolls
_ADDRESS = "query-params"
_MARKS = 'name=value, with one of = != > < >= <= ~ (contains): guidance>=5 view=rotate_180 prompt~"red seven"'


def page(settings: Settings) -> None:
    uri = _chosen(settings.runs)
    if uri is None:
        st.info(f"There is no run in {plain(settings.runs)} yet: `darkroom generate` makes one.")
        return
    table = _opened(uri)
    view = _filters(table)
    if "row" in st.query_params and "beside" in st.query_params:
        _two(table, st.query_params["beside"], st.query_params["row"])
    elif "row" in st.query_params:
        _one(table, view, st.query_params["row"])
    else:
        _many(table, view)


def _chosen(place: str) -> str | None:
    found = {run.name: run for run in _runs(place) if not run.is_training}
    if not found:
        return None
    with st.sidebar:
        name = st.selectbox("Run", list(found), key="run", bind=_ADDRESS, format_func=lambda name: name or place)
    if found[name].problem:
        raise ValueError(found[name].problem)
    if st.session_state.get("run before", name) != name:
        _leave()  # a row of another run
    st.session_state["run before"] = name
    return found[name].uri


@st.cache_data(ttl=_LOOKED, show_spinner="Looking for runs")
def _runs(place: str) -> list[Any]:
    return find_runs(place)


def _opened(uri: str) -> RunTable:
    """As the run was when it was opened here, till somebody asks for it anew: rows must not jump while one looks."""
    versions = st.session_state.setdefault("versions", {})
    again = st.sidebar.button("Look again", icon=":material/refresh:", help="for new rows")
    if again:
        _runs.clear()
    if again or uri not in versions:
        versions[uri] = run_version(uri)
    return _table(uri, versions[uri])


@st.cache_resource(max_entries=_KEPT, show_spinner="Opening the run")
def _table(uri: str, version: tuple[str, ...]) -> RunTable:
    return RunTable(uri)


def _filters(table: RunTable) -> View:
    failures = [name for name, _, _ in table.failures()]
    with st.sidebar:
        text = st.text_input("Words", key="text", bind=_ADDRESS, placeholder="of prompts and ids")
        tasks = st.multiselect("Task", sorted(table.counts), key="task", bind=_ADDRESS)
        statuses = st.multiselect("Status", ["ok", "failed"], key="status", bind=_ADDRESS) if failures else []
        errors = st.multiselect("Failed by", failures, key="errors", bind=_ADDRESS) if failures else []
        flags = st.multiselect("Flags", table.flags(), key="flags", bind=_ADDRESS) if table.flags() else []
        where = st.text_input(
            "Parameters", key="where", bind=_ADDRESS, placeholder="guidance>=5 seed=3", help=plain(_MARKS)
        )
        st.caption("of " + plain(", ".join(table.names), 1000))
        lowest, highest = _scores(table)
        order = st.selectbox("Order", ORDERS, key="order", bind=_ADDRESS, format_func=lambda name: name or "as made")
        down = st.toggle("Descending", key="down", bind=_ADDRESS)
    table.refuse_unknown(where)
    return View(*map(tuple, (tasks, statuses, flags, errors)), text, where, lowest, highest, order, down)


def _scores(table: RunTable) -> tuple[float | None, float | None]:
    if not table.is_scored:
        return None, None
    left, right = st.columns(2)
    bounds = [
        column.number_input(label, value=None, step=0.01, format="%.3f", key=key, bind=_ADDRESS)
        for column, label, key in ((left, "Alignment from", "lowest"), (right, "to", "highest"))
    ]
    return bounds[0], bounds[1]


def _many(table: RunTable, view: View) -> None:
    found = table.find(View(**{**vars(view), "page": _page_of(view)}))
    pages = max((found.total - 1) // PAGE + 1, 1)
    number = min(_page_of(view), pages - 1)
    st.markdown(f"**{found.total:,}** of {plural(table.rows, 'row')}, {_counted(table)}")
    if table.damaged:
        st.warning(
            f"{plural(len(table.damaged), 'file')} of the run could not be read. Look again where a job is under way; "
            "else `darkroom audit` says more."
        )
    if failures := table.failures():
        _failures(table, failures)
    if "beside" in st.query_params:
        said, button = st.columns([4, 1], vertical_alignment="center")
        said.info(f"Choose the picture to be seen beside {plain(st.query_params['beside'])}.")
        button.button("Do not compare", on_click=_leave)
    if not found.rows:
        st.info("No row fits. Fewer words, tasks or conditions find more.")
        return
    pressed = gallery(thumbnails(table, found.rows), key="gallery")
    if pressed:
        st.query_params["row"] = pressed
        st.rerun()
    if pages > 1:
        _leaf(number, pages)


def _counted(table: RunTable) -> str:
    return plain(", ".join(f"{sum(counts.values()):,} {task}" for task, counts in sorted(table.counts.items())))


def _page_of(view: View) -> int:
    """From 0. The first where the filters are no longer those of the page in the address."""
    if st.session_state.setdefault("view before", view) != view:
        st.session_state["view before"] = view
        st.query_params.pop("page", None)
    given = st.query_params.get("page", "1")
    return int(given) - 1 if given.isdecimal() and int(given[:9]) > 0 else 0


def _leaf(number: int, pages: int) -> None:
    before, said, after = st.columns([1, 2, 1], vertical_alignment="center")
    before.button("Before", disabled=number == 0, on_click=_go, args=[number], icon=":material/chevron_left:")
    said.markdown(f"page {number + 1:,} of {pages:,}", text_alignment="center")
    after.button(
        "After", disabled=number + 1 == pages, on_click=_go, args=[number + 2], icon=":material/chevron_right:"
    )


def _go(page: int) -> None:
    st.query_params["page"] = str(page)


def _failures(table: RunTable, failures: list[tuple[str, int, str]]) -> None:
    with st.expander(f"{plural(sum(many for _, many, _ in failures), 'row')} failed", icon=":material/error:"):
        for name, many, example in failures:
            st.markdown(f"**{plain(name)}** {many:,}: {plain(example)}")
        names = [name for name, _, _ in failures]
        chosen = st.multiselect("To be tried again", names, default=names, key="again")
        st.download_button(
            "Their manifest", lambda: _manifest(table.run.uri, chosen), "failed.jsonl", "application/jsonl",
            disabled=not chosen, icon=":material/download:", on_click="ignore",
        )  # fmt: skip
        manifest = table.run.record["manifest"].get("uri", "MANIFEST")
        command = ["darkroom", "generate", manifest, "--out", table.run.uri, "--ids", "failed.jsonl"]
        st.code(shlex.join(command), language=None)


def _manifest(uri: str, classes: list[str]) -> bytes:
    """Rows that failed by these, as `darkroom failed` writes them."""
    rows = failed_rows(uri, ",".join(classes))
    return "".join(json.dumps(failed.row, ensure_ascii=False) + "\n" for failed in rows).encode()


def _one(table: RunTable, view: View, row_id: str) -> None:
    place, before, after = table.around(view, row_id)
    with st.container(horizontal=True, vertical_alignment="center"):  # columns would stand below each other on a phone
        st.button("All pictures", on_click=_leave, icon=":material/grid_view:")
        st.button("Before", disabled=not before, on_click=_look, args=[before], icon=":material/chevron_left:")
        st.markdown(f"{place:,} of the rows that fit" if place else "not among the rows that fit", width="content")
        st.button("After", disabled=not after, on_click=_look, args=[after], icon=":material/chevron_right:")
        st.button("Compare", on_click=_compare, args=[row_id], icon=":material/compare:")
    row = _known(table, row_id)
    if row is None:
        return
    pictures, words = st.columns([3, 2])
    with pictures:
        viewer(large(table, row), key="viewer")
        _series(table, row)
    with words:
        _record(table, row, "alone")


def _two(table: RunTable, first: str, second: str) -> None:
    st.button("All pictures", on_click=_leave, icon=":material/grid_view:")
    rows = [_known(table, row_id) for row_id in (first, second)]
    if None in rows:
        return
    differ = [name for name in sorted({*rows[0]["parameters"], *rows[1]["parameters"]})
              if rows[0]["parameters"].get(name) != rows[1]["parameters"].get(name)]  # fmt: skip
    st.markdown("They differ in " + (plain(", ".join(differ), 1000) or "nothing that was asked for") + ".")
    for column, row, key in zip(st.columns(2), rows, ("first", "second"), strict=True):
        with column:
            viewer(large(table, row), key=f"viewer {key}")
            st.button("Alone", on_click=_alone, args=[row["id"]], key=f"alone {key}")
            _record(table, row, key)


def _known(table: RunTable, row_id: str) -> dict[str, Any] | None:
    try:
        return table.named(row_id)
    except KeyError:
        st.warning(f"This run has no row {plain(row_id)}.")
        return None


def _series(table: RunTable, row: dict[str, Any]) -> None:
    """Rows that differ from this one in one thing."""
    found = table.series(row) if row["status"] == "ok" else {}
    if not found:
        return
    name = st.segmented_control("Play what differs in", list(found), key="series", format_func=lambda name: name)
    if name:
        viewer({"frames": frames(table, name, found[name], row["id"])}, key="player")


def _record(table: RunTable, row: dict[str, Any], where: str) -> None:
    """where: on the page, on which a row may stand beside itself."""
    st.text(row["id"][:1000])
    for prompt in row["prompts"]:
        st.text(prompt[:1000])
    if row["error"]:
        st.error(plain(row["error"], 2000))
    asked, whole = record(table, row["id"])
    if asked is not None:
        as_yaml, as_json = st.tabs(["Row as YAML", "as JSON"])
        line = json.dumps(asked, ensure_ascii=False)
        height = "content" if len(line) <= _SCROLLED else 480
        text = yaml.safe_dump([asked], allow_unicode=True, sort_keys=False)
        as_yaml.code(text, language="yaml", wrap_lines=True, height=height)
        as_json.code(line, language="json", wrap_lines=True, height=height)
    else:
        st.caption("The row is too long for a page: it is in the run's Parquet.")
    if row["status"] == "ok":
        st.download_button("The picture", lambda: table.picture(row), f"{row['key'][:16]}.png", "image/png",
                           key=f"file {where} {row['key']}", on_click="ignore", icon=":material/download:")  # fmt: skip
    with st.expander("All that is on record"):
        st.json(whole)


def _leave() -> None:
    for name in ("row", "beside"):
        st.query_params.pop(name, None)


def _look(row_id: str) -> None:
    st.query_params["row"] = row_id


def _alone(row_id: str) -> None:
    st.query_params.pop("beside", None)
    st.query_params["row"] = row_id


def _compare(row_id: str) -> None:
    st.query_params["beside"] = row_id
    st.query_params.pop("row", None)
