"""The pipeline file: what one night's work is, when it is due, and what it takes to become the champion.

    name: mnist-nightly                      the model's name in the registry
    out: ../../runs/mnist-nightly            snapshots, ticks and the page; relative to this file, as every path here
    registry: ../../runs/registry
    schedule: {cron: "0 2 * * *", time_zone: Europe/Berlin, missed: last, timeout_seconds: 36000}      optional
    data: {kind: mnist}                      or idx, folder, cifar10, with `source`
    train: {recipe: mnist-flow-class, settings: {hidden: 32, epochs: 6}}
    evaluate: {count: 500, steps: 30}        optional
    classifier: ../../models/classifier      optional: what `darkroom train classifier` made; it judges the pictures
    gate:
      class_accuracy: {at_least: 0.9, margin: 0.01}
    smoke: smoke.yaml                        optional: a manifest
    generate: {manifest: digits.yaml}        optional
    keep: 3                                  versions kept besides the champion and the one before

It is checked whole before anything runs: every problem is told at once, with its line.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from darkroom.manifest.problems import ProblemsError
from darkroom.manifest.yaml_files import BadYaml, Place, line_of, read_yaml
from darkroom.models.errors import ModelError
from darkroom.retrain.gate import Rule
from darkroom.retrain.pipeline_checks import Problem, meant_wrong
from darkroom.retrain.schema import Data, Evaluate, Generate, Pipeline, Schedule, Train
from darkroom.sampling.names import unknown
from darkroom.storage import NotFound, join, open_store, read_uri

_PARTS = {"": Pipeline, "schedule": Schedule, "data": Data, "train": Train, "evaluate": Evaluate, "generate": Generate}


class PipelineError(ProblemsError):
    """A pipeline file that cannot be run."""

    what = "pipeline"


def read_pipeline(uri: str) -> Pipeline:
    """The pipeline in the file at a path or s3:// uri. PipelineError with every problem, StorageError."""
    name = uri.rstrip("/").rsplit("/", 1)[-1]
    try:
        file = read_yaml(read_uri(uri), lines=True)
    except BadYaml as error:
        texts = [f"{name} line {line}: {text}" if line else f"{name}: {text}" for line, text in error.findings]
        raise PipelineError(texts) from None
    except (NotFound, ValueError) as error:
        raise PipelineError([str(error)]) from None
    document, lines = file.value, file.lines
    if not isinstance(document, dict):
        raise PipelineError([f"{name}: wanted a mapping of {', '.join(Pipeline.model_fields)}"])
    found: list[Problem] = []
    pipeline = None
    try:
        pipeline = Pipeline.model_validate(document)
    except ValidationError as error:
        found = _findings(error, document)
    found += [problem for problem in meant_wrong(document) if problem[0] not in {place for place, _ in found}]
    if pipeline is not None:
        base = uri.rpartition("/")[0] if "://" in uri else open_store(uri).root.rpartition("/")[0]
        pipeline = _absolute(pipeline, base or "/")
        found += _missing_files(pipeline)
    if found or pipeline is None:
        where = sorted((line_of(place, lines), place, text) for place, text in found)
        raise PipelineError([f"{name} line {line}: {'.'.join(map(str, p))}: {text}" for line, p, text in where])
    return pipeline


def _findings(error: ValidationError, document: dict[str, Any]) -> list[Problem]:
    """A sentence for each place; of one that may have several types, which pydantic tells apart below it, the first."""
    found: dict[Place, str] = {}
    for finding in error.errors(include_url=False):
        place, part = tuple(finding["loc"]), document
        if finding["type"] not in ("missing", "extra_forbidden"):
            for depth, key in enumerate(place):
                if not (isinstance(part, dict) and key in part or isinstance(part, list) and key in range(len(part))):
                    place = place[:depth]
                    break
                part = part[key]
        found.setdefault(place, _sentence(finding))
    return list(found.items())


def _absolute(pipeline: Pipeline, base: str) -> Pipeline:
    """Paths as every worker and every later tick finds them."""
    more: dict[str, Any] = {key: join(base, getattr(pipeline, key)) for key in ("out", "registry")}
    more |= {key: join(base, uri) for key in ("smoke", "classifier") if (uri := getattr(pipeline, key)) is not None}
    if pipeline.data.source is not None:
        more["data"] = pipeline.data.model_copy(update={"source": join(base, pipeline.data.source)})
    if (generate := pipeline.generate) is not None:
        out = None if generate.out is None else join(base, generate.out)
        more["generate"] = generate.model_copy(update={"manifest": join(base, generate.manifest), "out": out})
    return pipeline.model_copy(update=more)


def _missing_files(pipeline: Pipeline) -> list[Problem]:
    manifests: list[tuple[Place, str | None]] = [(("smoke",), pipeline.smoke)]
    if pipeline.generate is not None:
        manifests.append((("generate", "manifest"), pipeline.generate.manifest))
    found: list[Problem] = []
    for place, uri in manifests:
        folder, _, name = (uri or "").rpartition("/")
        if uri is not None and not open_store(folder or "/").exists(name):
            found.append((place, f"there is no manifest {uri}"))
    if pipeline.classifier is not None:
        try:
            from darkroom.models.classifier import Classifier  # here: torch costs two seconds

            Classifier.open(pipeline.classifier)
        except ModelError as error:
            found.append((("classifier",), str(error)))
    return found


def _sentence(finding: Any) -> str:
    kind, given = finding["type"], finding["input"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        *above, key = finding["loc"]
        part = Rule if above[:1] == ["gate"] else _PARTS["".join(above)]
        return str(unknown("key", str(key), part.model_fields))
    text = finding["msg"].replace("Input should", "must").replace("String should", "must")
    return f"{text[:1].lower()}{text[1:]}, was {given!r}"[:300]
