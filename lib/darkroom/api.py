"""The jobs as functions, for whoever works in Python: what the commands do, with the same options."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from darkroom.exits import quiet
from darkroom.phases import Say, to_stderr

if TYPE_CHECKING:
    from darkroom.batch.generate import Outcome
    from darkroom.evaluation import Evaluation
    from darkroom.manifest.inline_rows import Rows
    from darkroom.models.catalog import Model

Given = TypeVar("Given")


def generate(manifest: str | Path | Rows, out: str | Path, **options: Any) -> Outcome:
    """Makes the pictures that a manifest asks for, on Ray: `darkroom generate`. The same call again makes what lacks.

    manifest: a path or uri, or the rows themselves, which are written to OUT/inputs; in them `image` and `mask` may
    also be PIL images or arrays. options: those of `darkroom.batch.options.Options`: model, workers, capacity, limit,
    images, dtype, scorer, ... Returns counts by task and status, seconds, evaluations; failed rows are among them.
    Raises ManifestError, ModelError or another ValueError for what you can mend; StorageError and ClusterError for what
    the surroundings did, after which the same call goes on.

    >>> import darkroom
    >>> outcome = darkroom.generate("manifests/demo.yaml", "runs/demo", workers=1)   # doctest: +SKIP
    >>> outcome.counts["anagram"]                                                    # doctest: +SKIP
    {'ok': 14}
    """
    from darkroom.batch.generate import Options, run
    from darkroom.batch.input_files import ANYWHERE
    from darkroom.manifest.inline_rows import named_by_row, write_rows
    from darkroom.storage import open_store

    _refuse_unknown("generate", options, _names(Options, "manifest", "out"))
    if "model" in options and not isinstance(options["model"], str):
        options["model"] = options["model"].address
    # Who writes rows in Python opens what they name anyway.
    places = {} if isinstance(manifest, (str, Path)) else {"inputs_root": ANYWHERE}
    # Before rows are written anywhere.
    asked = _checked(Options, {"manifest": "", "out": str(out), **places, **_address(), **options})
    quiet(asked.verbose)
    with named_by_row():
        if not isinstance(manifest, (str, Path)):
            manifest = write_rows(manifest, open_store(str(out)))
        return run(replace(asked, manifest=str(manifest)))


def train(
    recipe: str,
    data: str | Path,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    say: Say = to_stderr,
    **options: Any,
) -> Model:
    """Trains a model by a recipe from an ingested data set, on Ray: `darkroom train`. Returns it, opened; of an adapter
    (recipe "lora"), the model it was trained on, with it: rows ask for it by the name of its folder.

    settings: fields of the recipe, as `--set` gives them; say: what is told of the progress. options: workers (2, or
    a range "2:8"), resume, address, verbose. Raises ValueError for what you can mend, FloatingPointError where the loss
    ran away, StorageError and ClusterError: with resume=True the same call goes on.

    >>> import darkroom
    >>> model = darkroom.train("mnist-flow-class", "data/mnist", "models/flow", {"epochs": 6})   # doctest: +SKIP
    >>> darkroom.sample(model, {"task": "text_to_image", "label": 7})[0]                         # doctest: +SKIP
    """
    from darkroom.models.adapter_folder import read_about
    from darkroom.models.catalog import open_model
    from darkroom.training import job

    _refuse_unknown("train", options, _names(job.TrainOptions, "recipe", "data", "out", "settings"))
    quiet(options.get("verbose", False))
    if "workers" in options:
        options["workers"] = str(options["workers"])
    pairs = tuple(f"{name}={_text(value)}" for name, value in (settings or {}).items())
    job.train(job.TrainOptions(recipe, str(data), str(out), settings=pairs, **_address() | options), say)
    if recipe == "lora":
        about, name = read_about(str(out)), str(out).rstrip("/").rpartition("/")[2]
        return open_model(about["base"]["model"], adapters={name: str(out)})
    return open_model(str(out))


def evaluate(
    model: str | Model,
    data: str | Path | None = None,
    out: str | Path | None = None,
    classifier: str | None = None,
    say: Say = to_stderr,
    **options: Any,
) -> dict[str, Any]:
    """Measures a model by the pictures that it makes, in this process: `darkroom evaluate`. Returns what was measured.

    A network is held against an ingested data set (`data`), by the embedded classifier of digits or by `classifier`,
    another's folder; options: count (of pictures for each of three seeds), steps, guidance, sampler, seed. A cascade of
    painted digits wants neither; options: count, stride or steps and spacing, guidance, seed. out: a folder or uri for
    a page or contact sheets; None: nothing is written. Raises ValueError where model, data and classifier do not fit.

    >>> import darkroom
    >>> found = darkroom.evaluate("models/flow", "data/mnist", count=200)   # doctest: +SKIP
    >>> found["measures"]["class_accuracy"]["mean"]                         # doctest: +SKIP
    0.998
    """
    from darkroom.models.catalog import open_model

    opened = open_model(model) if isinstance(model, str) else model
    if opened.kind == "network":
        found = _of_network(opened, data, classifier, options, say)
        if out is not None:
            from darkroom.report.evaluation import write_evaluation

            write_evaluation(found, str(out))
        return found.record
    if data is not None or classifier is not None:
        raise ValueError(f"{opened.name} is a cascade of painted digits, which is judged without data or classifier")
    from darkroom.evaluation import sample_and_judge

    _refuse_unknown("evaluate", options, ("count", "stride", "steps", "spacing", "guidance", "seed"))
    found = sample_and_judge(model if isinstance(model, str) else opened.address, **options)
    if out is not None:
        from darkroom.report.cascade import write_cascade_evaluation

        write_cascade_evaluation(found, str(out))
    return found.record()


def _of_network(
    network: Model, data: str | Path | None, classifier: str | None, options: Mapping[str, Any], say: Say
) -> Evaluation:
    from darkroom.evaluation import Sampling, evaluate_network
    from darkroom.models.classifier import Classifier

    if data is None:
        raise ValueError(f"{network.name} is a network: `data` wants the data set to measure it against")
    _refuse_unknown("evaluate", options, _names(Sampling))
    judge = Classifier.open(classifier) if classifier else None
    return evaluate_network(network, str(data), Sampling(**options), say, judge)


def _refuse_unknown(function: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """TypeError for an option that there is not, as Python has it, but with those that there are."""
    if unknown := [name for name in given if name not in known]:
        raise TypeError(f"{function}() has no option {', '.join(map(repr, unknown))}; wanted {', '.join(known)}")


def _checked(kind: type[Given], values: Mapping[str, Any]) -> Given:
    """The dataclass of these values. ValueError with all that do not fit."""
    from pydantic import TypeAdapter, ValidationError

    hints, problems = get_type_hints(kind, include_extras=True), []
    for name, value in values.items():
        try:
            TypeAdapter(hints[name]).validate_python(value, strict=True)
        except ValidationError as error:
            problems.append(f"{name} is {value!r}: {error.errors()[0]['msg']}")
    if problems:
        raise ValueError("\n".join(problems))
    return kind(**values)


def _names(options: type, *positional: str) -> list[str]:
    """The fields of a dataclass, but for those that a function takes as arguments of its own."""
    return [field.name for field in fields(options) if field.name not in positional]


def _address() -> dict[str, Any]:
    """The cluster that the environment names, as for the commands."""
    return {"address": os.environ.get("RAY_ADDRESS")}


def _text(value: Any) -> str:
    """A setting as the command line writes it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
