"""What an evaluation of painted digits leaves: contact sheets (of a cascade sheet-24.png, ..., textures.png,
anagrams.png and hybrids.png, of scenes sheet.png), index.html that shows them, and quality.json."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import Tensor

from darkroom.evaluation.cascade import SHOWN, CascadeEvaluation, SceneEvaluation, Wish
from darkroom.evaluation.digits import Quality, recognise
from darkroom.evaluation.illusions import KINDS, IllusionEvaluation
from darkroom.evaluation.scenes import SceneWish, verdict
from darkroom.evaluation.textures import TextureEvaluation, read_textures
from darkroom.models.painted_ink import DIGITS
from darkroom.report.evaluation import framed_sheet
from darkroom.report.sections import Drawing, Section, Table, section_page
from darkroom.storage import open_store
from darkroom.training.painted_scenes import KINDS as SCENES

SIDE = 96


def write_cascade_evaluation(
    evaluation: CascadeEvaluation | SceneEvaluation,
    out: str,
    illusions: IllusionEvaluation | None = None,
    textures: TextureEvaluation | None = None,
) -> str:
    """Writes the sheets and index.html and then quality.json under `out`; what was measured, as lines of text."""
    store, record, lines = open_store(out), evaluation.record(), [evaluation.text()]
    sections = [_measures(evaluation), *_samples(evaluation)]
    if textures is not None:
        record["textures"] = textures.record()
        lines.append(textures.text())
        sections.append(_textures(textures))
    if illusions is not None:
        record["illusions"] = illusions.record()
        lines.append(illusions.text())
        sections += _illusions(illusions)
    drawings = [drawing for section in sections for drawing in section.drawings]
    for drawing in drawings:
        store.write(f"{drawing.name}.png", drawing.png)
    store.write("index.html", _html(evaluation.settings, sections).encode())
    store.write("quality.json", json.dumps(record, indent=1).encode() + b"\n")
    return "\n".join(lines)


def _html(settings: Mapping[str, object], sections: list[Section]) -> str:
    facts = [(name.replace("_", " "), value) for name, value in settings.items() if value is not None]
    model = str(settings["model"])
    title, kind = f"{model}, evaluated", "an evaluation"
    return section_page(model, sections, title=title, kind=kind, numbers="quality.json", facts=[facts])


def _measures(evaluation: CascadeEvaluation | SceneEvaluation) -> Section:
    """A line of every number that one stage, or one kind of scene, has."""
    if isinstance(evaluation, SceneEvaluation):
        kinds = evaluation.quality.by_kind
        head = ["", *next(iter(kinds.values()))]
        rows = [[kind, *(f"{share:.1%}" for share in shares.values())] for kind, shares in kinds.items()]
    else:
        head = ["", "pictures", "digit", "worst digit", "colour", "worst colour", "paper", "worst paper"]
        sized = zip(evaluation.pictures, evaluation.quality, strict=True)
        rows = [[f"{pictures.shape[-1]} px", *_cells(quality)] for pictures, quality in sized]
    return Section(
        "measures", "Measures", ["Shares of pictures that are seen to be what was asked."], table=Table(head, rows)
    )


def _cells(quality: Quality) -> list[str]:
    cells = [f"{quality.count}"]
    for name in ("digit", "colour", "paper"):
        accuracy, shares = getattr(quality, f"{name}_accuracy"), getattr(quality, f"per_{name}")
        worst = quality.worst.get(name)
        cells += ["", ""] if worst is None else [f"{accuracy:.1%}", f"{worst}, {shares[worst]:.0%}"]
    return cells


def _samples(evaluation: CascadeEvaluation | SceneEvaluation) -> list[Section]:
    wishes, framed = evaluation.wishes[:SHOWN], ["The first pictures, none left out. Framed: not seen to be as asked."]
    if isinstance(evaluation, SceneEvaluation):
        drawings = [Drawing("sheet", scene_sheet(evaluation.pictures[:SHOWN], wishes), "Contact sheet")]
    else:
        drawings = [
            Drawing(f"sheet-{size}", cascade_sheet(pictures[:SHOWN], wishes), "Contact sheet", f"{size} px")
            for pictures in evaluation.pictures
            for size in pictures.shape[-1:]
        ]
    return [Section("samples", "Samples", framed, drawings)]


def _textures(textures: TextureEvaluation) -> Section:
    """A line of every size; the first of the largest."""
    head = ["", "pictures", "texture", "patterns", "small digits", "worst", "both colours"]
    rows = [
        [
            f"{pictures.shape[-1]} px",
            f"{q.count}",
            *(f"{share:.1%}" for share in (q.texture_accuracy, q.pattern_accuracy, q.small_accuracy)),
            f"{q.worst}, {q.per_texture[q.worst]:.0%}",
            f"{q.colour_accuracy:.1%}",
        ]
        for pictures, q in zip(textures.pictures, textures.quality, strict=True)
    ]
    about = ["Patterns and small digits in turn. Framed: not seen to be what was asked."]
    return Section(
        "textures", "Textures", about, [Drawing("textures", texture_sheet(textures), "Contact sheet of textures")],
        Table(head, rows),
    )  # fmt: skip


def texture_sheet(textures: TextureEvaluation) -> bytes:
    """PNG of the first pictures of the last stage, ten in a row; a frame where another texture is seen."""
    pictures, wishes = textures.pictures[-1][:SHOWN], textures.wishes[:SHOWN]
    wrong = [found != wish.texture for found, wish in zip(read_textures(pictures), wishes, strict=True)]
    return framed_sheet((pictures + 1) / 2, wrong, [], [], SIDE, len(DIGITS))


def _illusions(illusions: IllusionEvaluation) -> list[Section]:
    """A table of all kinds; a sheet for each task."""
    head = ["", "wishes", "read both ways", "of", "one picture does", "reads first", "reads second"]
    rows = [
        [
            name,
            f"{r.wishes}",
            f"{r.read:.0%}",
            f"best of {r.best_of}",
            f"{r.both:.0%}",
            f"{r.first:.0%}",
            f"{r.second:.0%}",
        ]
        for name, r in (illusions.by_task | illusions.by_kind).items()
    ]
    about = [
        "An anagram's first part is read as the picture lies, its second turned; a hybrid's first blurred, as from "
        "afar, its second without what a blur leaves, as from near.",
        "Of every wish the picture that reads best, both ways side by side. Framed: not read as asked.",
    ]
    drawings = [
        Drawing(f"{task}s", illusion_sheet(illusions, task), f"Contact sheet of {task}s", f"{task}s")
        for task in illusions.by_task
    ]
    return [Section("illusions", "Illusions", about, drawings, Table(head, rows))]


def illusion_sheet(illusions: IllusionEvaluation, task: str) -> bytes:
    """PNG of a task's wishes, as many in a row as anagrams have kinds, each as its two parts are seen; a frame where it
    is not read."""
    chosen = [number for number, wish in enumerate(illusions.wishes) if wish.task == task]
    pictures = illusions.pictures[chosen].flatten(0, 1)
    wrong = [not right for number in chosen for right in illusions.right[number]]
    return framed_sheet((pictures + 1) / 2, wrong, [], [], SIDE, 2 * KINDS)


def cascade_sheet(pictures: Tensor, wishes: list[Wish]) -> bytes:
    """PNG of pictures [N, 3, S, S] in [-1, 1], N <= 80: zero to nine, a colour a row; a frame where another digit,
    colour or paper is seen than was wished for."""
    seen = recognise(pictures)
    wrong = [
        (wish.digit, wish.colour, wish.paper) != tuple(found)
        for wish, *found in zip(wishes, seen.digits, seen.colours, seen.papers, strict=True)
    ]
    rows = [wish.colour for wish in wishes[:: len(DIGITS)]]
    return framed_sheet((pictures + 1) / 2, wrong, rows, DIGITS, SIDE)


def scene_sheet(pictures: Tensor, wishes: list[SceneWish]) -> bytes:
    """PNG of pictures [N, 3, 48, 48] in [-1, 1], N <= 80: a kind a column, a digit a row; a frame where anything is
    not as it was wished for."""
    wrong = [not all(verdict(picture, wish)) for picture, wish in zip(pictures, wishes, strict=True)]
    columns = [kind or "plain" for kind in SCENES]
    rows = [f"{wish.colours[0]} {DIGITS[wish.digits[0]]}" for wish in wishes[:: len(columns)]]
    return framed_sheet((pictures + 1) / 2, wrong, rows, columns, SIDE)
