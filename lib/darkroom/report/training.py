"""The report of a training run: OUT/report/index.html, which opens from disk, with pictures and figures.json beside."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from darkroom.report import adapter, curves, denoiser, diffusions, flows, pure_noise
from darkroom.report.sections import Drawing, Section, Table, attempt, moment, section_page
from darkroom.report.trained import TrainingRun
from darkroom.storage import Store

LISTED_EPOCHS = 20
_LINKED = ("losses.parquet", "epochs.csv", "config.json", "run.json")
_SAMPLES = ("samples", "denoised", "pure-noise")  # sections
_IN_FACTS = ("name",)  # of the recipe's fields: said in the heading

Draw = Callable[[], Section]


def write_training_report(run_uri: str, against: str | None = None, samples: int | None = None) -> str:
    """Draws what a training run learned into OUT/report; a sentence that says where it is.

    against: another run of a diffusion to compare with, by what its own report measured. samples: how many pictures a
    diffusion's samplers are compared by; default `diffusions.default_samples`. NotFound if there is no run; data that
    is gone is a note on the page.
    """
    run = TrainingRun(run_uri)
    sections = [_losses(run), *(attempt(id, title, draw) for id, title, draw in _shown(run, samples))]
    if against is not None:
        sections.append(_comparison(run, sections, against))
    _write(run.store, run, sections)
    pictures = sum(len(section.drawings) for section in sections)
    return f"{run.name}: {pictures} figures, the report is at {run.store.uri('report/index.html')}"


def _shown(run: TrainingRun, samples: int | None) -> list[tuple[str, str, Draw]]:
    """What is drawn besides the loss, by what the model is; nothing of a cascade, whose report is its evaluation."""
    if adapter.is_adapter(run):
        return [("validation", "Validation prompts", partial(adapter.prompts_by_epoch, run))]
    if not run.drawable:
        return []
    process = run.config["process"]
    if process is None:
        return _of_denoiser(run)
    if process["kind"] == "flow":
        return _of_flow(run)
    return _of_diffusion(run, samples)


def draw_samples(run_uri: str) -> Section:
    """The section of a training's report that shows what its networks make, epoch by epoch; nothing is written. Its
    `problem` says why there is none."""
    run = TrainingRun(run_uri)
    drawn = [found for found in _shown(run, None) if found[0] in _SAMPLES]
    return attempt(*drawn[0]) if drawn else Section("samples", "Samples", problem=f"{run.name} is shown by no samples.")


def _of_denoiser(run: TrainingRun) -> list[tuple[str, str, Draw]]:
    if run.recipe.get("pure_noise"):
        return [("pure-noise", "Samples from pure noise", partial(pure_noise.collapse, run))]
    return [
        ("noising", "Noising", partial(denoiser.noising, run)),
        ("denoised", "Denoised", partial(denoiser.denoised, run)),
        ("out-of-distribution", "Out of distribution", partial(denoiser.out_of_distribution, run)),
    ]


def _of_flow(run: TrainingRun) -> list[tuple[str, str, Draw]]:
    found = [("samples", "Samples", partial(flows.by_epoch, run))]
    if run.config["network"].get("num_classes"):
        found.append(("guidance", "Guidance", partial(flows.guidance_sweep, run)))
    return [*found, ("trajectories", "From noise to picture", partial(flows.trajectories, run))]


def _of_diffusion(run: TrainingRun, samples: int | None) -> list[tuple[str, str, Draw]]:
    return [
        ("samples", "Samples", partial(diffusions.by_epoch, run)),
        ("samplers", "DDPM against DDIM", partial(diffusions.samplers, run, samples)),
    ]


def _comparison(run: TrainingRun, sections: list[Section], against: str) -> Section:
    found = [section for section in sections if section.id == "samplers"]
    if not found:
        raise ValueError(f"runs are compared by their diffusion samplers, and {run.name} has none")
    draw = partial(diffusions.comparison, run, found[0].numbers, against)
    return attempt("comparison", "Against another run", draw)


def _losses(run: TrainingRun) -> Section:
    """The curves, and a line for each epoch."""
    drawings = []
    if len(run.losses.get("loss", ())):
        png = curves.steps_curve(run.losses["step"], run.losses["loss"])
        drawings.append(Drawing("loss-steps", png, "Loss of each training step, with its moving mean"))
    if run.epochs:
        validation = [epoch.validation_loss for epoch in run.epochs]
        png = curves.epochs_curve([e.epoch for e in run.epochs], [e.loss for e in run.epochs], validation)
        drawings.append(Drawing("loss-epochs", png, "Mean loss of each epoch, and validation loss"))
    about = [] if drawings else ["No epoch is finished yet."]
    return Section("loss", "Loss", about, drawings, _epoch_table(run) if run.epochs else None)


def _epoch_table(run: TrainingRun) -> Table:
    """At most LISTED_EPOCHS epochs, evenly drawn, with the first and the last."""
    places = np.unique(np.linspace(0, len(run.epochs) - 1, LISTED_EPOCHS).round().astype(int))
    rows = [
        [
            f"{e.epoch}",
            f"{e.step:,}",
            f"{e.loss:.5f}",
            "–" if e.validation_loss is None else f"{e.validation_loss:.5f}",
            f"{e.seconds:,.1f}",
            f"{e.images_per_second:,.0f}",
        ]
        for e in (run.epochs[place] for place in places)
    ]
    return Table(["epoch", "step", "loss", "validation loss", "seconds", "images per second"], rows)


def _write(store: Store, run: TrainingRun, sections: list[Section]) -> None:
    """Pictures first, the page last; what an earlier report drew and this one did not is taken away."""
    drawings = [drawing for section in sections for drawing in section.drawings]
    for drawing in drawings:
        store.write(f"report/{drawing.name}.png", drawing.png)
    numbers = {section.id: section.numbers for section in sections if section.numbers}
    store.write(diffusions.FIGURES, json.dumps(numbers, indent=1).encode() + b"\n")
    store.write("report/index.html", _html(run, sections).encode())
    written = {f"report/{drawing.name}.png" for drawing in drawings}
    old = {key for key in store.list("report/") if key.endswith(".png") and key.count("/") == 1}
    store.delete(*sorted(old - written))


def _html(run: TrainingRun, sections: list[Section]) -> str:
    about = _about_model(run) if run.drawable else []
    if adapter.is_adapter(run) and run.finished:
        about = adapter.facts(run.config)
    facts = [("state", _state(run)), *about, *_effort(run), *_circumstances(run)]
    chosen = {key: value for key, value in run.recipe.items() if key not in _IN_FACTS and value != "auto"}
    recipe = [(key.replace("_", " "), _value(value)) for key, value in chosen.items()]
    return section_page(
        run.name,
        sections,
        kind="a report of a training run",
        numbers="figures.json",
        facts=[facts, recipe],
        notes=[run.data_problem] if run.drawable and run.data_problem else [],
        files=[name for name in _LINKED if run.store.exists(name)],
    )


def _about_model(run: TrainingRun) -> list[tuple[str, str]]:
    config = run.config
    data, process = config["training"]["data"], config["process"]
    network = {key: value for key, value in config["network"].items() if key != "architecture"}
    return [
        ("network", f"{config['network']['architecture']}, {_sentence(network)}"),
        ("parameters", f"{run.parameters:,}"),
        ("process", "none: it cleans pictures and generates none" if process is None else _process(process)),
        ("data", f"{data['name']} at {data['uri']}"),
        ("data digest", data["train"][:16]),
        ("images", f"{config['training']['images']:,}"),
    ]


def _effort(run: TrainingRun) -> list[tuple[str, str]]:
    """Time taken, and images a second over all epochs."""
    if not run.epochs:
        return []
    seconds = sum(epoch.seconds for epoch in run.epochs)
    images = sum(epoch.seconds * epoch.images_per_second for epoch in run.epochs)
    speed = images / seconds if seconds else 0.0
    return [("time", f"{seconds:,.1f} seconds"), ("speed", f"{speed:,.0f} images per second")]


def _circumstances(run: TrainingRun) -> list[tuple[str, str]]:
    """What run.json says of who worked, and with which versions."""
    known = {name: _value(run.record[name]) for name in ("workers", "packages") if run.record.get(name)}
    begun = run.record.get("created_at")
    return [*([("begun", moment(begun))] if begun else []), *known.items()]


def _state(run: TrainingRun) -> str:
    done = run.epochs[-1] if run.epochs else None
    far = f"{done.epoch} epochs, {done.step:,} steps" if done else "no epoch yet"
    return f"finished: {far}" if run.finished else f"not finished: {far}"


def _process(process: dict[str, Any]) -> str:
    """ "diffusion, 1,000 noise levels, schedule linear": its kind is a word of its own."""
    levels, others = process.get("num_timesteps"), process | {"kind": None, "num_timesteps": None}
    return ", ".join(filter(None, [process["kind"], f"{levels:,} noise levels" if levels else "", _sentence(others)]))


def _sentence(fields: dict[str, Any]) -> str:
    """Of what is set: zero, no and nothing are not said."""
    return ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in fields.items() if value)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return _sentence(value)
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
