"""The page of an evaluation: OUT/index.html, which opens from disk, beside samples.png and evaluation.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import torch
import torch.nn.functional as F
from PIL import ImageColor
from torch import Tensor

from darkroom.evaluation.network import Evaluation
from darkroom.report.grids import draw_grid
from darkroom.report.sections import Drawing, Section, Table, section_page
from darkroom.report.sheets import PAPER
from darkroom.storage import open_store

WRONG = "#c23b22"
_HEAD = ["", "model", "95 % interval", "real pictures", "counted"]
_INTERVALS = (
    "Intervals are of the mean over the seeds, by 2,000 bootstrap draws; of three seeds they come out as their range. "
    "Real pictures: what the same measure says of real ones, {yardstick}."
)
_YARDSTICK = "test pictures for accuracy and nearest picture, training pictures for the distances"
_FRECHET = (
    "The Fréchet distance, precision and recall are in the {features} features of the classifier {name}. The Fréchet "
    "distance grows as pictures get fewer: compare it at one count only, and with that of the real pictures beside it."
)


def write_evaluation(evaluation: Evaluation, out: str) -> str:
    """Writes samples.png, index.html and then evaluation.json under `out`; what was measured, as lines of text."""
    store, sections = open_store(out), _sections(evaluation)
    for section in sections:
        for drawing in section.drawings:
            store.write(f"{drawing.name}.png", drawing.png)
    store.write("index.html", _html(evaluation.record, sections).encode())
    text = json.dumps(evaluation.record, indent=1, ensure_ascii=False, allow_nan=False)
    store.write("evaluation.json", text.encode() + b"\n")
    return as_text(evaluation.record)


def measure_table(record: Mapping[str, Any]) -> Table:
    """A line for each measure that was taken."""
    found = record["measures"]
    if "psnr" in found:
        return _psnr(found["psnr"])
    return Table(_HEAD, [*_judged(found), *_always(found)])


def as_text(record: Mapping[str, Any]) -> str:
    """The table for a terminal, and the notes below."""
    table = measure_table(record)
    lines = [table.head, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    # the last column's words stand at the left, numbers at the right
    formats = ["<", *[">"] * (len(widths) - 2), "<" if table.head == _HEAD else ">"]
    cells = list(zip(formats, widths, strict=True))
    drawn = [
        "  ".join(f"{cell:{way}{width}}" for cell, (way, width) in zip(line, cells, strict=True)) for line in lines
    ]
    return "\n".join([*(line.rstrip() for line in drawn), *record["notes"]])


def _judged(found: Mapping[str, Any]) -> list[list[str]]:
    """What wants the classifier."""
    rows = []
    if accuracy := found.get("class_accuracy"):
        worst = f"{accuracy['worst']} ({accuracy['per_class'][accuracy['worst']]:.1%})"
        counted = f"{len(accuracy['by_seed'])} x {accuracy['generated']:,} pictures; worst: {worst}"
        rows.append(["class accuracy", *_spread(accuracy, ".1%"), f"{accuracy['of_test_pictures']:.1%}", counted])
    for name, form in (("frechet_distance", ".2f"), ("precision", ".3f"), ("recall", ".3f")):
        if measure := found.get(name):
            title = "Fréchet distance" if name == "frechet_distance" else name
            counted = f"{measure['generated']:,} pictures against {measure['real']:,} of the test split"
            rows.append([title, *_spread(measure, form), f"{measure['of_training_pictures']:{form}}", counted])
    return rows


def _always(found: Mapping[str, Any]) -> list[list[str]]:
    loss, near, seconds = (found[key] for key in ("validation_loss", "nearest_training_picture", "seconds_per_sample"))
    counted = f"{near['pictures']:,} pictures, {near['training']:,} of the training split; L2, pixels in 0..1"
    real = near["of_test_pictures"]
    return [
        [f"validation loss, {loss['prediction']}", f"{loss['value']:.5f}", "", "",
         f"{loss['pictures']:,} test pictures at {loss['times']} times"],
        *(
            [f"nearest training picture, {name}", f"{near[name]:.3f}", "", f"{real[name]:.3f}", counted]
            for name in ("mean", "minimum")
        ),
        ["seconds per sample", *_spread(seconds, "#.3g"), "", ""],
    ]  # fmt: skip


def _psnr(lines: list[dict[str, Any]]) -> Table:
    rows = []
    for line in lines:
        before, after = line["noisy"], line["denoised"]
        gain = "–" if before is None or after is None else f"{after - before:+.2f}"
        # + 0: a rounded -0.00 loses its sign
        said = ["no error" if value is None else f"{round(value, 2) + 0:.2f}" for value in (before, after)]
        rows.append([f"{line['sigma']:g}", *said, gain])
    return Table(["sigma", "noisy, dB", "denoised, dB", "gain, dB"], rows)


def _spread(measure: Mapping[str, Any], form: str) -> tuple[str, str]:
    low, high = measure["interval"]
    return f"{measure['mean']:{form}}", f"{low:{form}} to {high:{form}}"


def _sections(evaluation: Evaluation) -> list[Section]:
    record, found = evaluation.record, evaluation.record["measures"]
    generates = "psnr" not in found
    if generates:
        about = [_INTERVALS.format(yardstick=_YARDSTICK)]
        if frechet := found.get("frechet_distance"):
            about.append(_FRECHET.format(features=frechet["features"], name=record["classifier"]["name"]))
    else:
        about = [f"PSNR over {found['pictures']:,} test pictures, for a data range of 1, nothing clipped."]
    pictures = _about_sheet(evaluation) if generates else ["Noisy above, cleaned below; columns by class."]
    sheet = Drawing("samples", contact_sheet(evaluation), "Contact sheet")
    return [
        Section("measures", "Measures", about, table=measure_table(record)),
        *([_by_class(found["class_accuracy"])] if "class_accuracy" in found else []),
        Section("samples", "Samples" if generates else "Pictures", pictures, [sheet]),
    ]


def _by_class(accuracy: Mapping[str, Any]) -> Section:
    shares, worst = accuracy["per_class"], accuracy["worst"]
    table = Table(["class", *shares], [["accuracy", *(f"{share:.1%}" for share in shares.values())]])
    return Section("classes", "By class", [f"The worst is {worst}, {shares[worst]:.1%}."], table=table)


def _about_sheet(evaluation: Evaluation) -> list[str]:
    if "class_accuracy" in evaluation.record["measures"]:
        count = len(evaluation.wrong)
        wrong = f"Of these {count}, {sum(evaluation.wrong)} are framed: the classifier sees another class, or none."
        return ["Columns by the class asked for. " + wrong]
    return ["Columns by class." if any(evaluation.columns) else "The first samples, none left out."]


def contact_sheet(evaluation: Evaluation) -> bytes:
    """PNG; what was judged wrong has a frame."""
    columns = evaluation.columns if any(evaluation.columns) else []
    pictures = evaluation.pictures.float() / 255
    return framed_sheet(pictures, evaluation.wrong, evaluation.rows, columns, 60, len(evaluation.columns))


def framed_sheet(
    pictures: Tensor, wrong: Sequence[bool], rows: Sequence[str], columns: Sequence[str], side: int, in_a_row: int = 0
) -> bytes:
    """PNG of pictures [N, C, S, S] in 0..1, row by row, `in_a_row` of them (default: as many as columns have names);
    what is wrong has a frame, a picture's pixel wide. side: see `draw_grid`."""
    framed = torch.stack([_framed(picture.clamp(0, 1), bad) for picture, bad in zip(pictures, wrong, strict=True)])
    return draw_grid(framed.split(in_a_row or len(columns)), rows, columns, side=side)


def _framed(picture: Tensor, wrong: bool) -> Tensor:
    """[C, S, S] -> [3, S + 2, S + 2]."""
    colour = torch.tensor(ImageColor.getrgb(WRONG if wrong else PAPER)) / 255
    frame = F.pad(picture.expand(3, -1, -1), (1, 1, 1, 1), value=torch.nan)
    return torch.where(frame.isnan(), colour[:, None, None], frame)


def _html(record: Mapping[str, Any], sections: list[Section]) -> str:
    return section_page(
        record["model"],
        sections,
        title=f"{record['model']}, evaluated",
        kind="an evaluation",
        numbers="evaluation.json",
        facts=[_facts(record)],
        notes=record["notes"],
    )


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    data, process = record["data"], record["process"]
    facts = [
        ("model", f"{record['model']}, revision {record['model_revision']}"),
        ("process", process["kind"] if process else "none: it cleans pictures and generates none"),
        ("data", f"{data['name']} at {data['uri']}"),
        ("test digest", data["test"][:16]),
        ("measured", datetime.fromisoformat(record["created_at"]).strftime("%-d %B %Y, %H:%M %Z")),
    ]
    if judge := record.get("classifier"):
        share = f"right about {judge['own_test_accuracy']:.1%} of its own test pictures"
        facts.append(("classifier", f"{judge['name']}, revision {judge['revision']}; {share}"))
    if how := record.get("sampling"):
        facts += [
            ("samples", f"{how['count']:,} from each of the seeds {', '.join(f'{seed:,}' for seed in how['seeds'])}"),
            ("steps", f"{how['steps']}, sampler {how['sampler']}"),
            ("guidance", "none: it takes no class" if how["guidance"] is None else f"{how['guidance']:g}"),
            ("device", f"{how['device']}; threads: {how['threads']}"),
        ]
    return facts
