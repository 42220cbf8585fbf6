"""What pages are made of: sections, and the templates of this folder, all of which begin with style.css."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from darkroom.storage import StorageError


@dataclass(frozen=True)
class Drawing:
    """A PNG of `grids.DENSITY` beside the page. name: its file's, without .png; alt: what one would see."""

    name: str
    png: bytes
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of words, the first of each says what the row is about; `marked`: a row that stands out."""

    head: list[str]
    rows: list[list[str]]
    marked: int | None = None


@dataclass(frozen=True)
class Section:
    """numbers: what the section measured, for figures.json; problem: why something is not shown."""

    id: str
    title: str
    about: list[str] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    table: Table | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def attempt(id: str, title: str, draw: Callable[[], Section]) -> Section:
    """The section, or one that says why it cannot be drawn: data that is gone takes nothing else off the page."""
    try:
        return draw()
    except (ValueError, StorageError) as error:
        return Section(id, title, problem=str(error))


def moment(text: str) -> str:
    """A time of ISO 8601 as people write it."""
    return datetime.fromisoformat(text).strftime("%-d %B %Y, %H:%M %Z").rstrip()


def render(template: str, **values: Any) -> str:
    """The page that a template makes of the values; every value the template names must be given."""
    environment = Environment(
        loader=PackageLoader("darkroom", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def section_page(
    name: str,
    sections: Sequence[Section],
    *,
    kind: str,
    numbers: str,
    facts: Sequence[Sequence[tuple[str, object]]],
    title: str = "",
    notes: Sequence[str] = (),
    files: Sequence[str] = (),
) -> str:
    """A page that is sections one below the other. kind: what it is of; numbers: the file that has its figures; facts:
    lists of them; title: by default the name; files: beside the page, linked."""
    from darkroom.report.grids import page_size  # torch, which a run's own page does without

    return render(
        "sections.html",
        title=title or name,
        name=name,
        kind=kind,
        numbers=numbers,
        files=files,
        facts=facts,
        notes=notes,
        sections=sections,
        sizes={drawing.name: page_size(drawing.png) for section in sections for drawing in section.drawings},
    )
