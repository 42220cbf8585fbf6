"""The page Make: one picture at a time, or a few, of any task, on a model that stays open."""

from __future__ import annotations

import gc
import json
import shlex
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from darkroom.batch.options import Options
from darkroom.manifest import ManifestError
from darkroom.phases import plural
from darkroom.runs.reading import NoRun, read_run_record
from darkroom.storage import StorageError, open_store
from darkroom.studio.asked_rows import SWEPT, as_json, as_yaml, parse_values, sweep, variants
from darkroom.studio.components import viewer
from darkroom.studio.desk import Desk, Ticket
from darkroom.studio.pages.make_form import form
from darkroom.studio.settings import Settings
from darkroom.studio.shown_rows import large
from darkroom.studio.text import plain

_MOST_SHOWN = 24
_LOOK_SECONDS = 0.5


def page(settings: Settings) -> None:
    if _is_run(settings.runs):
        st.info(f"{plain(settings.runs)} is one run: start the studio on the folder that it lies in to make pictures.")
        return
    desk = _desk(settings)
    tickets: list[Ticket] = st.session_state.setdefault("tickets", [])
    asked, made = st.columns([2, 3], gap="large")
    with asked:
        st.caption(plain(f"{desk.model.name}, revision {desk.model.revision[:8]}; pictures go to {desk.store.root}"))
        _ask(desk, tickets)
        if any(ticket.ended is None for ticket in tickets):
            _under_way(desk, tickets)  # by the button, which may be a screen below the pictures
    with made:
        _show(desk, tickets)


@st.cache_resource(ttl=30.0, show_spinner=False)
def _is_run(place: str) -> bool:
    try:
        read_run_record(open_store(place))
    except (NoRun, StorageError):
        return False
    return True


@st.cache_resource(show_spinner="Opening the model: its weights are loaded once")
def _desk(settings: Settings) -> Desk:
    beside = {"adapter": settings.adapter, "control": settings.control, "depth": settings.depth}
    desk = Desk(Options("", settings.runs, settings.model, scorer=settings.scorer, **beside))
    gc.collect()
    gc.freeze()  # what stays is not looked through by the collection with which Streamlit ends every run of a script
    return desk


def _ask(desk: Desk, tickets: list[Ticket]) -> None:
    row, count = form(desk)
    pressed = st.button("Make", type="primary", disabled=row is None, key="make", icon=":material/photo_camera:")
    if row is None:
        st.caption("A picture is missing yet, or its mask.")
    if not (pressed and row):
        return
    try:
        for place, one in enumerate(variants(row, count)):
            tickets.insert(place, desk.submit(one))
    except ManifestError as error:
        for problem in error.problems:
            st.error(plain(problem.removeprefix("row 1: "), 1000))
    except (ValueError, StorageError) as error:
        st.error(plain(error, 1000))


def _show(desk: Desk, tickets: list[Ticket]) -> None:
    if not tickets:
        st.info("What you make appears here, and among the runs. The same settings again cost nothing.")
        return
    ended = [ticket for ticket in tickets if ticket.ended is not None][:_MOST_SHOWN]
    if ended and ended[0].record is not None:
        _remember(desk, ended[0].record)
    columns = st.columns(min(len(ended), 2) or 1)
    for place, ticket in enumerate(ended):
        with columns[place % len(columns)], st.container(border=True):
            _ended(desk, ticket, place)


def _remember(desk: Desk, record: dict[str, Any]) -> None:
    """The picture that was made last is what previews are of."""
    with suppress(StorageError):
        st.session_state["make last"] = desk.picture(record)


@st.fragment(run_every=_LOOK_SECONDS)
def _under_way(desk: Desk, tickets: list[Ticket]) -> None:
    """How far those are that are not there yet; the page is drawn anew when one of them is."""
    waiting = [ticket for ticket in tickets if ticket.ended is None]
    before = st.session_state.setdefault("waiting", len(waiting))
    st.session_state["waiting"] = len(waiting)
    if len(waiting) < before or not waiting:
        st.rerun()
    for place, ticket in enumerate(waiting):
        moves, of = desk.progress(ticket)
        said = f"move {moves} of {of}" if of else "waiting for its turn"
        bar, button = st.columns([5, 1], vertical_alignment="center")
        bar.progress(moves / of if of else 0.0, f"{_words(ticket)}: {said}, {ticket.seconds:.0f} s")
        button.button("Cancel", on_click=_cancel, args=[desk, tickets, ticket], key=f"cancel {place} {ticket.id}")


def _cancel(desk: Desk, tickets: list[Ticket], ticket: Ticket) -> None:
    """Somebody else may go on waiting for it."""
    desk.cancel(ticket)
    if ticket.askers:
        tickets.remove(ticket)


def _words(ticket: Ticket) -> str:
    parts = ticket.row.get("views") or ticket.row.get("components") or [ticket.row]
    prompts = [str(part.get("prompt", part.get("label", ""))) for part in parts]
    return plain(" / ".join(filter(None, prompts)) or ticket.row["task"], 120)


def _ended(desk: Desk, ticket: Ticket, place: int) -> None:
    if ticket.record is None:
        st.error(f"{_words(ticket)}: {plain(ticket.problem, 1000)}")
        return
    try:
        data = desk.picture(ticket.record)
    except StorageError as error:
        st.error(plain(error, 1000))
        return
    record = ticket.record
    if record["video_uri"]:
        st.video(desk.video(record), loop=True, autoplay=True, muted=True)
    else:
        viewer(large(desk, _shown(record)), key=f"made {place} {ticket.id}")
    cost = "there already" if ticket.known else f"{ticket.seconds:.1f} s"
    st.caption(f"{_words(ticket)} · seed {record['seed']} · {plural(record['evaluations'], 'evaluation')} · {cost}")
    with st.container(horizontal=True):
        st.download_button("PNG", data, f"{ticket.id[:16]}.png", "image/png", key=f"png {place}", on_click="ignore")
        st.button("Go on from it", on_click=_go_on, args=[data], key=f"go on {place}", help="as the picture of a task")
        run = desk.store.root.rstrip("/").rpartition("/")[2]
        st.link_button("In its run", "/?" + urlencode({"run": run, "row": ticket.id}))
    with st.expander("As a manifest row, and more of them"):
        _manifest(ticket.row, place)


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    """A row of the results as the viewer has it."""
    return record | {"parameters": json.loads(record["parameters"])}


def _go_on(data: bytes) -> None:
    st.session_state["make own picture"] = data
    if st.session_state.get("make task") not in ("image_to_image", "inpaint", "upscale", "denoise"):
        st.session_state["make task"] = "image_to_image"


def _manifest(row: dict[str, Any], place: int) -> None:
    as_text, as_line = st.tabs(["YAML", "JSON"])
    as_text.code(as_yaml(row), language="yaml", wrap_lines=True)
    as_line.code(as_json(row), language="json", wrap_lines=True)
    names = [name for name in SWEPT if name in row or name == "sampler"]
    name = st.selectbox("A manifest of many, one for each", names, key=f"swept {place}")
    text = st.text_area("of these", placeholder="1, 3, 7", key=f"values {place}", height=68)
    if not text:
        return
    try:
        manifest = sweep(row, name, parse_values(name, text))
    except ValueError as error:
        st.error(plain(error, 1000))
        return
    st.download_button("The manifest", manifest, "sweep.yaml", "text/yaml", key=f"sweep {place}", on_click="ignore")
    st.code(shlex.join(["darkroom", "generate", "sweep.yaml", "--out", "runs/sweep"]), language=None)
