"""The part of the page Models that shows trainings."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from darkroom.phases import duration
from darkroom.studio.found_runs import MORE, find_runs
from darkroom.studio.pages.attempt import attempt
from darkroom.studio.text import plain
from darkroom.studio.trainings import Evaluation, Training, curve, evaluations, losses, read_training, read_trainings

LOOK_EVERY = 3.0  # seconds between looks at a training that is not finished
FAINT, STRONG = "#9a9187", "#d1495b"  # read on light and on dark


def trainings_view(runs: str) -> None:
    everything = find_runs(runs)
    for one in everything:
        if one.name == MORE:
            st.warning(plain(one.problem, 2000))
    found = read_trainings([one for one in everything if one.is_training])
    if not found:
        st.info(f"No training lies in {plain(runs)}. One begins by:")
        st.code(f"darkroom train mnist-flow-class --data DATA --out {runs.rstrip('/')}/flow", language=None)
        return
    st.dataframe(_overview(found), hide_index=True, height=min(38 + 35 * len(found), 248))
    by_name = {one.name: one for one in found}
    chosen = st.selectbox(
        "Training", list(by_name), format_func=lambda name: name or runs, key="training", bind="query-params"
    )
    _training(by_name[chosen])


def _overview(found: list[Training]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "training": one.name or one.uri,
            "recipe": one.recipe,
            "state": one.state,
            "progress": one.progress,
            "loss": one.epochs[-1].loss if one.epochs else None,
            "validation loss": one.epochs[-1].validation_loss if one.epochs else None,
            "begun": one.created_at[:16].replace("T", " "),
        }
        for one in found
    )


def _training(training: Training) -> None:
    if training.problem:
        st.error(plain(training.problem, 2000))
        return
    live = None if training.finished else LOOK_EVERY
    st.fragment(_progress, run_every=live)(training)
    st.subheader("Samples")
    st.fragment(partial(attempt, _samples), run_every=live)(training)
    for evaluation in _evaluations(training.uri, training.finished):
        _evaluation(evaluation)


def _progress(shown: Training) -> None:
    """Facts and curves, as they are now."""
    now = read_training(shown.uri, shown.name)
    if now.problem:
        st.error(plain(now.problem, 2000))
        return
    if now.finished and not shown.finished:
        st.rerun()  # the whole page: it need not look again
    _facts(now)
    attempt(_curves, now)


def _curves(now: Training) -> None:
    by_phase = losses(now.uri)
    columns = st.columns(2)
    with columns[0]:
        for name, values in by_phase.items():
            _steps_chart(name, values)
    with columns[1]:
        _epochs_chart(now)
    if now.epochs:
        with st.expander("Every epoch"):
            st.dataframe(pd.DataFrame([vars(epoch) for epoch in now.epochs]), hide_index=True)


def _facts(now: Training) -> None:
    facts: list[tuple[str, str]] = [("state", now.state), ("progress", now.progress)]
    if now.epochs:
        last = now.epochs[-1]
        facts.append(("loss", f"{last.loss:.4f}"))
        if last.validation_loss is not None:
            facts.append(("validation loss", f"{last.validation_loss:.4f}"))
        facts.append(("images a second", f"{last.images_per_second:,.0f}"))
    if now.seconds_left is not None:
        facts.append(("left, by the last epochs", duration(now.seconds_left)))
    with st.container(horizontal=True):
        for name, value in facts:
            if value:
                st.metric(name, plain(value), width="content")
    if not now.finished and not now.epochs and not any(now.phases.values()):
        st.caption("No epoch has ended yet: curves appear with the first.")


def _steps_chart(phase: str, values: np.ndarray) -> None:
    if not len(values):
        return
    points = curve(values)
    lines = list(dict.fromkeys(point["line"] for point in points))
    title = f"{phase}: loss of each step" if phase else "Loss of each step"
    _chart(title, points, "step", dict(zip(lines, (FAINT, STRONG), strict=False)), values)


def _epochs_chart(now: Training) -> None:
    if not now.epochs:
        return
    points = [{"epoch": one.epoch, "loss": one.loss, "line": "training"} for one in now.epochs]
    held = [one for one in now.epochs if one.validation_loss is not None]
    points += [{"epoch": one.epoch, "loss": one.validation_loss, "line": "validation"} for one in held]
    heights = np.array([point["loss"] for point in points])
    _chart("Loss of each epoch", points, "epoch", {"training": FAINT, "validation": STRONG}, heights, dots=True)


def _chart(
    title: str, points: list[dict[str, Any]], x: str, colours: dict[str, str], values: np.ndarray, dots: bool = False
) -> None:
    """Lines over steps or epochs; on a log scale where that shows more."""
    from darkroom.report.curves import is_steep

    scale = {"type": "log"} if is_steep(values) else {"zero": False}
    axis = {"field": "loss", "type": "quantitative", "title": None, "scale": scale, "axis": {"tickCount": 5}}
    spec = {
        "mark": {"type": "line", "point": dots, "clip": True, "strokeWidth": 1.5},
        "title": title,
        "encoding": {
            "x": {"field": x, "type": "quantitative", "axis": {"tickMinStep": 1, "format": "~s"}},
            "y": axis,
            "color": {
                "field": "line",
                "type": "nominal",
                "title": None,
                "scale": {"domain": list(colours), "range": list(colours.values())},
                "legend": {"orient": "top"},
            },
            "tooltip": [{"field": x}, {"field": "loss", "format": ".5g"}, {"field": "line"}],
        },
    }
    st.vega_lite_chart(pd.DataFrame(points), spec, width="stretch", height=320, alt=title)


def _samples(shown: Training) -> None:
    """Sheets of pictures by epoch: the report's, where one was drawn, else drawn here when asked."""
    if sheets := _reported(shown.uri, shown.finished):
        _show(sheets)
        return
    drawing = f"draw {shown.uri}"
    kept = _kept(shown.uri)
    if not kept:
        st.caption("No checkpoint is kept yet, so there is nothing to draw from.")
    elif st.session_state.get(drawing) or st.button("Draw samples of the kept epochs", key=f"button {drawing}"):
        st.session_state[drawing] = True  # of a live training also those that come
        with st.spinner("drawing"):
            about, sheets, problem = _drawn(shown.uri, tuple(kept))
        if problem:
            st.warning(plain(problem, 2000))
        st.caption(plain(about, 2000))
        _show(sheets)


def _show(sheets: list[tuple[str, bytes]]) -> None:
    for caption, png in sheets:
        if caption:
            st.caption(plain(caption))
        st.image(png, width=_width(png))


def _width(png: bytes) -> int:
    """Of a sheet on a page; a narrower one shrinks it."""
    from darkroom.report.grids import page_size

    return page_size(png)[0]


def _kept(uri: str) -> list[int]:
    from darkroom.report.trained import TrainingRun

    return TrainingRun(uri).kept


@st.cache_data(max_entries=32, ttl=60, show_spinner=False)
def _reported(uri: str, finished: bool) -> list[tuple[str, bytes]]:
    """The sheets of samples that the training's own report has drawn, by epoch."""
    from darkroom.studio.trainings import reported_samples

    return reported_samples(uri) if finished else []


@st.cache_data(max_entries=32, show_spinner=False)
def _drawn(uri: str, kept: tuple[int, ...]) -> tuple[str, list[tuple[str, bytes]], str]:
    """What the samples are, the sheets, and why there are none. kept: the epochs, for the cache to know them by."""
    from darkroom.report.training import draw_samples

    section = draw_samples(uri)
    return " ".join(section.about), [(one.caption or one.alt, one.png) for one in section.drawings], section.problem


@st.cache_data(max_entries=32, ttl=60, show_spinner=False)
def _evaluations(uri: str, finished: bool) -> list[Evaluation]:
    return evaluations(uri)


def _evaluation(evaluation: Evaluation) -> None:
    st.subheader(plain(f"Evaluation: {evaluation.name}"))
    names = [name or " " * place for place, name in enumerate(evaluation.head, 1)]
    st.dataframe(pd.DataFrame(evaluation.rows, columns=names), hide_index=True)
    if evaluation.sheet:
        st.image(evaluation.sheet, width=_width(evaluation.sheet))
