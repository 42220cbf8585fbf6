"""The report of a run: RUN/report/index.html, which opens from disk, with its tiles and contact sheets beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from darkroom.report.pictures import Pictures
from darkroom.report.rows import LISTED_FAILURES, PER_TASK, Part, Selection, in_manifest_order, select
from darkroom.report.run_sections import Desk, Heading, section
from darkroom.report.sections import render
from darkroom.report.sweep_sections import sweep_section
from darkroom.report.sweeps import sweeps
from darkroom.runs import Ledger
from darkroom.runs.reading import read_run_record
from darkroom.storage import NotFound, Store, open_store

TASKS = {
    "text_to_image": ("Text to image", "From noise alone, under one prompt."),
    "image_to_image": (
        "Image to image",
        "A picture noised part of the way and developed again: the later the start, the more of the source remains.",
    ),
    "inpaint": ("Inpainting", "Where the mask is white the picture is painted anew, the rest is kept."),
    "anagram": ("Anagrams", "One picture; each view of it answers to a prompt of its own."),
    "hybrid": ("Hybrids", "One picture; each part of it answers to a prompt of its own."),
    "upscale": ("Upscaling", "A small picture made larger by the upper stages alone."),
    "forward": ("Forward process", "A picture, noised."),
    "denoise": ("Denoising", "A picture noised, and what can be had of it again: by a blur, in one step or in many."),
}

FIGURE = "figure-"


def write_report(run_uri: str, per_task: int = PER_TASK) -> str:
    """Draws a run's pictures into RUN/report; a sentence that says where they are.

    Rows whose ids are written `figure/row` are drawn figure by figure in the manifest's order, all others task by
    task; a figure of all combinations of two parameters is a grid of them. Of each at most `per_task` rows are drawn,
    and memory holds no others. NoRun if there is none; a picture that is gone or damaged is a note on the page.
    """
    store = open_store(run_uri)
    run = read_run_record(store)
    selection = select(Ledger(store), per_task)
    in_manifest_order(selection, store, run["plan"])
    pictures, desk = Pictures(store), Desk(store)
    sections = [_section(heading, part, pictures, desk) for heading, part in _parts(selection)]
    desk.write("index.html", _html(run, _summary(store), selection, sections).encode())
    desk.sweep()
    return f"{selection.rows:,} rows, the report is at {store.uri('report/index.html')}"


def _section(heading: Heading, part: Part, pictures: Pictures, desk: Desk) -> dict[str, Any]:
    if found := sweeps(part) if heading.name.startswith(FIGURE) else []:
        return sweep_section(heading, part, found, pictures, desk)
    return section(heading, part, pictures, desk)


def _parts(selection: Selection) -> Iterator[tuple[Heading, Part]]:
    """Figures, then what belongs to none, by task."""
    for number, (figure, part) in enumerate(selection.figures.items(), 1):
        tasks = {shown.parameters["task"] for group in part.groups for shown in group}
        about = " and ".join(TASKS[task][0] for task in TASKS if task in tasks)
        yield Heading(f"{FIGURE}{number}", figure, f"{about}.".capitalize()), part
    for task, (title, about) in TASKS.items():
        if task in selection.tasks:
            yield Heading(task, title, about), selection.tasks[task]


def _summary(store: Store) -> dict[str, Any]:
    """What the job wrote last; {} for a run that is not finished."""
    try:
        return json.loads(store.read("summary.json"))
    except NotFound:
        return {}


def _html(run: dict[str, Any], summary: dict[str, Any], selection: Selection, sections: list[dict[str, Any]]) -> str:
    manifest = run["manifest"]["uri"]
    return render(
        "page.html",
        manifest=PurePosixPath(manifest).name,
        facts=_facts(run, summary, selection),
        counts=[(title, selection.counts[task]) for task, (title, _) in TASKS.items() if task in selection.counts],
        rows=selection.rows,
        failures=selection.failures,
        failed=selection.failed,
        listed=LISTED_FAILURES,
        sections=sections,
    )


def _facts(run: dict[str, Any], summary: dict[str, Any], selection: Selection) -> list[tuple[str, str]]:
    facts = [
        ("manifest", run["manifest"]["uri"]),
        ("model", run["model"]["name"]),
        ("revision", run["model"]["revision"]),
        ("made", _moment(run["created_at"])),
    ]
    if not summary:
        return [*facts, ("state", "not finished: the job has written no summary yet")]
    return [
        *facts,
        ("time", f"{summary['seconds']:,.1f} seconds"),
        ("speed", f"{summary['images_per_second']:,.2f} images per second"),
        ("evaluations", f"{summary['evaluations']:,}"),
    ]


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%-d %B %Y, %H:%M %Z")
