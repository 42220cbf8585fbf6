"""Sections of a run's page: what is drawn of a task or a figure, its tiles, contact sheet and animations written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from darkroom.report.animations import LARGEST, one_after_the_other, turning
from darkroom.report.captions import clipped, flags, prompt_of_strip, score, sentence, settings, usual
from darkroom.report.comparisons import varying
from darkroom.report.desk import Desk
from darkroom.report.figures import Panel, panels
from darkroom.report.pictures import Pictures
from darkroom.report.rows import Part, Shown
from darkroom.report.sheets import Cell, caption_font, draw_sheet, edge, fitted, tile
from darkroom.report.turning import turns
from darkroom.sampling.views import view_of

DRAWN_AT_ONCE = 16
ON_A_SHEET = 200  # figures; a sheet of thousands is a picture that nothing opens
SHORTEST_STRIP = 3  # pictures of a strip that is worth an animation
SMOOTH = 128  # pixels; larger pictures are drawn smoothly, smaller ones pixel by pixel
TELLING = ("sampler", "start", "strength", "guidance")  # parameters that a contact sheet has room for


@dataclass(frozen=True)
class Figure:
    """A group of rows as drawn. said: its parameters; panels: what the page shows of each; animation: a link or ""."""

    rows: list[Shown]
    said: dict[str, str]
    prompt: str
    problem: str
    panels: list[dict[str, Any]]
    cell: Cell | None
    animation: str = ""


@dataclass(frozen=True)
class Heading:
    """A section's name in links and files, its title and what it is about."""

    name: str
    title: str
    about: str


@dataclass(frozen=True)
class Materials:
    """What sections are drawn with. animate: a format of `animations`, or "" for none."""

    pictures: Pictures
    desk: Desk
    animate: str = ""


def section(heading: Heading, part: Part, materials: Materials) -> dict[str, Any]:
    """What the page says of one task or figure, its contact sheet and tiles written."""
    numbered = enumerate(part.groups, 1)
    with ThreadPoolExecutor(DRAWN_AT_ONCE, thread_name_prefix="report") as pool:
        figures = list(pool.map(lambda pair: _figure(f"{heading.name}-{pair[0]}", pair[1], materials), numbered))
    common = usual([figure.said for figure in figures])
    cells = [_captioned(figure, common) for figure in figures[:ON_A_SHEET] if figure.cell is not None]
    sheet = ""
    if cells:
        sheet = f"sheets/{heading.name}.png"
        shown = f"{part.shown:,} of {part.good:,} · {sentence(common)}"
        materials.desk.write(sheet, draw_sheet(heading.title, shown, cells))
    drawn = [_on_page(figure, common, heading.title, materials.desk) for figure in figures]
    return on_page(heading, part, common, sheet=sheet, figures=drawn)


def on_page(heading: Heading, part: Part, common: dict[str, str], **drawn: Any) -> dict[str, Any]:
    """What the page's template takes for a section. common: settings of all its pictures; drawn: what it has of a
    contact sheet, figures, grids, curves and their table."""
    return {
        "name": heading.name,
        "title": heading.title,
        "about": heading.about,
        "good": part.good,
        "shown": part.shown,
        "common": common,
        "sheet": "",
        "figures": [],
        "grids": [],
        "curves": [],
        "table": None,
        **drawn,
    }


def _figure(name: str, group: list[Shown], materials: Materials) -> Figure:
    task = group[0].parameters["task"]
    prompt = prompt_of_strip(group)
    try:
        drawn, problem = panels(task, group, materials.pictures), ""
    except ValueError as error:
        drawn, problem = [], str(error)
    linked = [_linked(panel, prompt, materials.desk) for panel in drawn]
    if task == "anagram":
        for panel, turn in zip(linked, turns(group[0].parameters["views"]), strict=False):  # control maps come last
            panel.update(turn)
    # Only the small tiles stay in memory for the sheet.
    cell = _cell(drawn, drawn[-1] if task in ("inpaint", "upscale") else drawn[0]) if drawn else None
    animation = _animated(name, group, drawn, materials) if drawn and materials.animate else ""
    return Figure(group, settings(group), prompt, problem, linked, cell, animation)


def _linked(panel: Panel, prompt: str, desk: Desk) -> dict[str, Any]:
    return {
        **desk.picture(panel.picture, panel.shown),
        "label": panel.label,
        "detail": panel.detail,
        "text": clipped(panel.text),
        "alt": clipped(f"{panel.label} {panel.text or prompt}".strip()),
        "smooth": max(panel.picture.shape[:2]) > SMOOTH,
        "shown": panel.shown,
        "video": "" if panel.shown is None else desk.video(panel.shown),
        "motion": "",
        "negated": False,
    }


def _animated(name: str, group: list[Shown], drawn: list[Panel], materials: Materials) -> str:
    """Writes what moves of a figure, if anything does: its link. "" also of views too fine for a shrunk picture."""
    parameters = group[0].parameters
    if parameters["task"] == "anagram":
        picture, views = materials.pictures.made(group[0]), parameters["views"]
        if any(view_of(view).fits(min(len(picture), LARGEST)) for view in views):
            return ""
        data = turning(picture, views, materials.animate)
    else:
        frames = [panel.picture for panel in drawn if panel.shown is not None]
        if len(frames) < SHORTEST_STRIP or len({frame.shape for frame in frames}) > 1:
            return ""
        data = one_after_the_other(frames, materials.animate)
    link = f"animations/{name}.{materials.animate}"
    materials.desk.write(link, data)
    return link


def _cell(drawn: list[Panel], largest: Panel) -> Cell:
    size, font = edge(max(largest.picture.shape[:2])), caption_font()
    words = [[panel.label, *(fitted(panel.text, size, 2, font) if panel.text else [])] for panel in drawn]
    return Cell([tile(panel.picture, size) for panel in drawn], [[w for w in under if w] for under in words])


def _captioned(figure: Figure, common: dict[str, str]) -> Cell:
    """The figure on the sheet: prompt in short, seed, and of the parameters those that vary, or are other than the
    heading says."""
    assert figure.cell is not None
    font = caption_font()
    prompt = fitted(figure.prompt, figure.cell.width, 2, font) if figure.prompt else []
    varying = _varying(figure, common)
    said = {name: varying[name] for name in dict.fromkeys([*TELLING, *common]) if name in varying}
    note = sentence({**_seed(figure), **said}, ", ")
    return replace(figure.cell, caption=prompt, note=fitted(note, figure.cell.width, 2, font))


def _varying(figure: Figure, common: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in figure.said.items() if common.get(name) != value}


def _seed(figure: Figure) -> dict[str, str]:
    """Said once for all rows that have the same; else it stands below each picture."""
    return {} if "seed" in varying(figure.rows) else {"seed": str(figure.rows[0].row["seed"])}


def _on_page(figure: Figure, common: dict[str, str], above: str, desk: Desk) -> dict[str, Any]:
    """What the template shows of a figure. above: the section's title, which an id need not say again."""
    numbers = {id(shown): desk.row(shown) for shown in figure.rows}
    task = figure.rows[0].parameters["task"]
    for panel in figure.panels:
        shown = panel.pop("shown")
        panel["own"] = shown is not None or (panel is figure.panels[0] and task == "anagram")
        panel["row"] = numbers.get(id(shown), numbers[id(figure.rows[0])])
    scored = score(figure.rows[0]) if len(figure.rows) == 1 else {}
    return {
        "tasks": sorted({shown.parameters["task"] for shown in figure.rows}),
        "id": clipped(_named(figure, above)),
        "ids": clipped(" ".join(shown.row["id"] for shown in figure.rows), 2000),
        "all": clipped(sentence(figure.said), 2000),
        "prompt": clipped(figure.prompt),
        "said": clipped(sentence({**_seed(figure), **_varying(figure, common)})),
        "seeds": sorted({shown.row["seed"] for shown in figure.rows}),
        "score": scored,
        "flags": sorted({flag for shown in figure.rows for flag in flags(shown)}),
        "problem": clipped(figure.problem),
        "panels": figure.panels,
        "animation": figure.animation,
    }


def _named(figure: Figure, above: str) -> str:
    """The row's id, as far as section and seed do not say it; "" of several rows, or where nobody named it."""
    first = figure.rows[0].row
    if len(figure.rows) > 1 or first["id"] == first["key"]:
        return ""
    name = first["id"].removeprefix(f"{above}/")
    return "" if name == str(first["seed"]) and name != first["id"] else name
