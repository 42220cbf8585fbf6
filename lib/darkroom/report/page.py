"""The report of a run: RUN/report/index.html, which opens from disk, with its tiles and contact sheets beside it."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import islice
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from darkroom.report.captions import clipped, sentence
from darkroom.report.desk import Desk
from darkroom.report.pictures import Pictures
from darkroom.report.rows import LISTED_FAILURES, PER_TASK, Part, Selection, in_manifest_order, select
from darkroom.report.run_sections import Heading, Materials, section
from darkroom.report.sections import moment, render
from darkroom.report.sweep_sections import sweep_section
from darkroom.report.sweeps import sweeps
from darkroom.runs import Ledger
from darkroom.runs.reading import read_run_record
from darkroom.storage import NotFound, Store, open_store

TASKS = {
    "text_to_image": ("Text to image", "From noise alone, under one prompt."),
    "text_to_video": ("Text to video", "From noise alone, under one prompt."),
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
LINKED_SHARDS = 8  # of more the folder is linked


def write_report(run_uri: str, per_task: int = PER_TASK, out: str = "", animate: str = "") -> str:
    """Draws a run's pictures into RUN/report, or the folder `out`; sentences that say where they are.

    Rows whose ids are written `figure/row` are drawn figure by figure in the manifest's order, all others task by
    task; a figure of all combinations of two parameters is a grid of them. Of each at most `per_task` rows are drawn,
    and memory holds no others. animate: a format of `animations`, "" for none. NoRun if there is no run, ValueError if
    `out` has a page of something else; a picture that is gone or damaged is a note on the page.
    """
    store = open_store(run_uri)
    run = read_run_record(store)
    materials = Materials(Pictures(store), Desk(store, out), animate)
    selection = select(Ledger(store), per_task)
    in_manifest_order(selection, store, run["plan"])
    sections = [_section(heading, part, materials) for heading, part in _parts(selection)]
    materials.desk.finish(_html(run, store, selection, sections, materials.desk))
    return _where(selection.rows, store, materials.desk)


def _where(rows: int, store: Store, desk: Desk) -> str:
    said = f"{rows:,} row{'' if rows == 1 else 's'}, the report is at {desk.index}"
    if not desk.index.startswith("s3://"):
        return said
    folder = desk.index.removesuffix("/index.html")
    return (
        f"{said}\nNo browser opens that. Bring it here by `aws s3 sync {folder} report` and open report/index.html, "
        f"or draw it here: `darkroom report {store.root} --out report`"
    )


def _section(heading: Heading, part: Part, materials: Materials) -> dict[str, Any]:
    if found := sweeps(part) if heading.name.startswith(FIGURE) else []:
        return sweep_section(heading, part, found, materials)
    return section(heading, part, materials)


def _parts(selection: Selection) -> list[tuple[Heading, Part]]:
    """Figures, and what belongs to none by task, in the order of the manifest."""
    parts = []
    for number, (figure, part) in enumerate(selection.figures.items(), 1):
        tasks = {shown.parameters["task"] for group in part.groups for shown in group}
        about = " and ".join(TASKS[task][0] for task in TASKS if task in tasks)
        title = figure[:1].upper() + figure[1:]
        parts.append((Heading(f"{FIGURE}{number}", title, f"{about}.".capitalize()), part))
    for task, (title, about) in TASKS.items():
        if task in selection.tasks:
            parts.append((Heading(task, title, about), selection.tasks[task]))
    return sorted(parts, key=lambda pair: pair[1].place)


def _summary(store: Store) -> dict[str, Any]:
    """What the job wrote last; {} for a run that is not finished."""
    try:
        return json.loads(store.read("summary.json"))
    except NotFound:
        return {}


def _html(run: dict[str, Any], store: Store, selection: Selection, sections: list[dict[str, Any]], desk: Desk) -> str:
    common = _said_everywhere(sections)
    for drawn in sections:
        own = {name: value for name, value in drawn["common"].items() if name not in common}
        drawn["common"] = clipped(sentence(own))
    summary = _summary(store)
    return render(
        "page.html",
        manifest=PurePosixPath(run["manifest"]["uri"]).name,
        model=run["model"]["name"],
        day=datetime.fromisoformat(run["created_at"]).strftime("%-d %B %Y"),
        common=clipped(sentence(common)),
        places=[(drawn["name"], drawn["title"]) for drawn in sections if drawn["name"].startswith(FIGURE)],
        facts=_facts(run, summary),
        links=_links(store, bool(summary), desk),
        counts=[(title, selection.counts[task]) for task, (title, _) in TASKS.items() if task in selection.counts],
        titles=[(task, title) for task, (title, _) in TASKS.items()],
        rows=selection.rows,
        failures=selection.failures,
        failed=[row | {"id": clipped(row["id"]), "error": clipped(row["error"], 1000)} for row in selection.failed],
        listed=LISTED_FAILURES,
        sections=sections,
    )


def _said_everywhere(sections: list[dict[str, Any]]) -> dict[str, str]:
    """What all sections have in common, to be said once; of a page with one section nothing."""
    if len(sections) < 2:
        return {}
    first, *others = (drawn["common"] for drawn in sections)
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _links(store: Store, summed_up: bool, desk: Desk) -> list[tuple[str, str]]:
    """What lies in the run, by name: a link, or "" where the page cannot reach it."""
    shards = list(islice(store.list("metadata/"), LINKED_SHARDS + 1))
    names = [*(["metadata/"] if len(shards) > LINKED_SHARDS else shards), "run.json"]
    names += ["summary.json"] if summed_up else []
    return [(name if desk.beside else store.uri(name), f"../{quote(name)}" if desk.beside else "") for name in names]


def _facts(run: dict[str, Any], summary: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("manifest", run["manifest"]["uri"]),
        ("model", f"{run['model']['name']}, revision {run['model']['revision']}"),
        ("begun", moment(run["created_at"])),
    ]
    if not summary:
        return [*facts, ("state", "not finished: the job has written no summary yet")]
    speed = f"{summary['images_per_second']:,.2f} images per second while developing"
    if summary.get("made") and summary["seconds"]:
        speed += f", {summary['made'] / summary['seconds']:,.2f} over all"
    return [
        *facts,
        ("time", f"{summary['seconds']:,.1f} seconds"),
        ("speed", speed),
        ("model evaluations", f"{summary['evaluations']:,}"),
    ]
