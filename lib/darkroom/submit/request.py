"""What is to be submitted: a job's arguments, checked here by the job's own parser, and free of what only this machine
has."""

from __future__ import annotations

import hashlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

import darkroom.jobs
from darkroom.phases import plural, redacted
from darkroom.storage import StorageError
from darkroom.storage.paths import local_path

RUNS = ("out", "run")  # the parameters, by name, that say where a job's run lies
# Jobs whose --out is a file, or a folder that must be new: a record of the job in there would be in their way.
WITHOUT_FOLDER = ("convert", "failed")
# Options that are places; every other is a text, whatever it looks like.
PATHS = (
    *RUNS, "runs", "uri", "data", "source", "against", "embeddings", "imported", "pipeline", "registry", "inputs_root",
    "ids", "depth",
)  # fmt: skip
NAMES = ("model", "classifier", "like")  # a name, or a place if there is a slash in it
NAMED = ("adapter", "control")  # name=URI, of which there may be several
SIGNS = dict.fromkeys(NAMED, "=") | {"scorer": ":"}  # after which a place comes
SHARED = ". Where every node sees this machine's folders at the same paths, say --shared-filesystem"


class LocalPath(ValueError):
    """Something that was named lies on this machine alone."""


@dataclass(frozen=True)
class Request:
    """A job and its arguments as the cluster's nodes can follow them. run: where it writes; notes: for the user."""

    job: str
    arguments: tuple[str, ...]
    run: str
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return hashlib.sha256("\0".join((self.job, *self.arguments)).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The same for the same job on the same run: jobs that would write into one another have one name."""
        label = re.sub(r"[^a-z0-9]+", "-", self.run.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-")[:30]
        told = self.run or "\0".join(self.arguments)
        digest = hashlib.sha256(f"{self.job}\0{told}".encode()).hexdigest()[:8]
        return "-".join(part for part in (self.job, label, digest) if part)


def job_names() -> list[str]:
    """Every job there is: the modules of darkroom.jobs."""
    return sorted(module.name for module in pkgutil.iter_modules(darkroom.jobs.__path__))


def prepare(job: str, arguments: list[str], shared: bool, image: bool = False) -> Request:
    """Parses, checks and rewrites; uploads a local manifest. shared: every node sees this machine's file system; image:
    a manifest at an absolute path that is not here is meant to be in the nodes' image.

    Raises typer's errors of usage, LocalPath, ManifestError, ModelError for the user's part; StorageError.
    """
    refuse_secrets(arguments)
    command = command_of(job)
    context = command.make_context(job, list(arguments))
    given = dict(context.params)
    if (given.get("manifest") or "").startswith("file://"):
        given["manifest"] = local_path(given["manifest"])
    if job == "generate":
        from darkroom.batch.given_rows import refuse_other

        refuse_other(given["manifest"] or "", given["prompt"] or (), given["count"], given["seed"])
    if shared:
        given = {name: _absolute(name, value) for name, value in given.items()}
    else:
        refuse_local(given, {parameter.name: parameter.opts[0] for parameter in command.params})
    run = _run(job, given, shared)
    manifest, model = given.get("manifest") or "", given.get("model") or ""
    if manifest == "-":
        raise ValueError("standard input is read on this machine, and the job is to run elsewhere: give a file")
    notes: list[str] = []
    if image and _is_elsewhere(manifest):
        notes.append(f"the manifest {manifest} must lie at that path on every node; it was not checked")
    elif manifest:
        goes_along = not shared and "://" not in manifest
        if goes_along:
            _refuse_several(manifest)
        scorer = job == "embed" or bool(given.get("scorer"))
        notes += check_manifest(manifest, model, scorer, given)
        if goes_along:
            given["manifest"], missing = _bring(manifest, run)
            notes += missing
    if model.startswith("/"):
        notes.append(f"the model {model} must lie at that path on every node")
    return Request(job, tuple(spell(command, context, given)), run, tuple(notes))


def refuse_secrets(arguments: Iterable[str]) -> None:
    """ValueError for an argument with a key in it."""
    for argument in arguments:
        if (shown := redacted(argument)) != argument:
            raise ValueError(
                f"{shown} had a key, a password or a signature in it, and whoever may see a job can read its "
                "arguments: S3's keys and the hub's are taken from the environment of the nodes"
            )


def run_of(job: str, arguments: list[str]) -> str:
    """Where a job with these arguments writes to; "" where that is nowhere, or they are not understood: the job itself
    says then what is wrong."""
    try:
        return _run(job, command_of(job).make_context(job, list(arguments)).params, shared=True)
    except (ValueError, StorageError, typer.Exit, TyperException):
        return ""


def _run(job: str, given: dict[str, Any], shared: bool) -> str:
    if given.get("pipeline"):
        return _pipelines_run(given["pipeline"], shared)
    names = RUNS[1:] if job in WITHOUT_FOLDER else RUNS
    return next((given[name] for name in names if given.get(name)), "")


def command_of(job: str) -> Any:
    """The job's own command line. ValueError for a job there is not."""
    module = import_module(f"darkroom.jobs.{job}") if job in job_names() else None
    if not hasattr(module, "main"):
        raise ValueError(f"no job {job!r} to submit: wanted one of {', '.join(filter(_is_single, job_names()))}")
    app = typer.Typer(add_completion=False)
    app.command()(module.main)
    return typer.main.get_command(app)


def _is_single(job: str) -> bool:
    """Whether it is one command; others are several, for here and now."""
    return hasattr(import_module(f"darkroom.jobs.{job}"), "main")


def spell(command: Any, context: Any, given: dict[str, Any]) -> list[str]:
    """Arguments that parse to `given`; what has its default is left out."""
    options: list[str] = []
    positional: list[str] = []
    for parameter in command.params:
        value = given.get(parameter.name)
        if value is None or (parameter.param_type_name == "option" and value == parameter.get_default(context)):
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        if parameter.param_type_name == "argument":
            positional += map(str, values)
        elif getattr(parameter, "is_flag", False):
            options.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            options += [text for one in values for text in (parameter.opts[0], str(one))]
    return [*positional, *options]


def _is_local(name: str, value: Any) -> bool:
    """Whether a parameter's value, or one of several, names a place on this machine."""
    if isinstance(value, (list, tuple)):
        return any(_is_local(name, item) for item in value)
    if not isinstance(value, str):
        return False
    if name in SIGNS:
        place = value.partition(SIGNS[name])[2]
        return bool(place) and _is_local("data", place) and not _is_embedded(place)
    if name == "model" and value.startswith("/"):
        return False  # a folder that is in the image, or on a volume, of every node
    is_place = name in PATHS or (name in NAMES and "/" in value)
    return is_place and ("://" not in value or value.startswith("file://"))


def _is_elsewhere(manifest: str) -> bool:
    return manifest.startswith("/") and not Path(manifest).exists()


def refuse_local(given: dict[str, Any], labels: dict[str, str], unless: str = SHARED) -> None:
    """LocalPath where an argument names a place on this machine. unless: a sentence on when it may."""
    several = [
        (name, item) for name, value in given.items() for item in (value if isinstance(value, list) else [value])
    ]
    local = [f"{labels.get(name, name)} {value}" for name, value in several if _is_local(name, value)]
    if local:
        raise LocalPath(
            f"{', '.join(local)}: on this machine, and the cluster's nodes see others; wanted s3://bucket/prefix{unless}"
        )


def _pipelines_run(pipeline: str, shared: bool) -> str:
    """Where a pipeline writes to; its whole file is checked. PipelineError, LocalPath."""
    from darkroom.retrain.pipeline_file import read_pipeline

    read = read_pipeline(pipeline)
    if not shared:
        refuse_local({"out": read.out, "registry": read.registry, "source": read.data.source}, {})
    return read.out


def _is_embedded(place: str) -> bool:
    """Whether an adapter or a control network of that name is in the program."""
    from darkroom.models import adapter_files, control  # not at the top: few jobs want one; torch costs two seconds

    return place in adapter_files.EMBEDDED or place in control.EMBEDDED


def _absolute(name: str, value: Any) -> Any:
    """Nodes see this machine's folders, but stand elsewhere."""
    if isinstance(value, list):
        return [_absolute(name, item) for item in value]
    if name in SIGNS and _is_local(name, value):
        called, sign, place = value.partition(SIGNS[name])
        return f"{called}{sign}{_absolute('data', place)}"
    is_manifest = name == "manifest" and isinstance(value, str) and value != "-" and "://" not in value
    local = _is_local(name, value) or is_manifest
    return local_path(value) if local else value


def check_manifest(manifest: str, model: str, scorer: bool, given: Mapping[str, Any]) -> list[str]:
    """ManifestError for what would be refused on the cluster; what could not be looked at here, said."""
    # Here, as the models' libraries cost seconds that other jobs need not pay.
    from darkroom.batch.options import parse_named
    from darkroom.manifest import open_manifest
    from darkroom.models.catalog import abilities, open_model
    from darkroom.submit.inputs import check_without_model

    try:
        named = [parse_named(f"--{name}", given.get(name) or ()) for name in NAMED]
        can = abilities(open_model(model, *named, given.get("depth")), scorer)
    except (ValueError, StorageError) as error:
        if "://" not in model and not model.startswith("/"):
            raise
        check_without_model(manifest)
        return [f"the manifest was checked without the model, which cannot be opened here ({error})"]
    open_manifest(manifest, can)
    return []


def _refuse_several(manifest: str) -> None:
    """ValueError for a folder or a glob of this machine."""
    from darkroom.manifest.sources import find_parts

    if not find_parts(manifest).alone:
        raise ValueError(
            f"{manifest} is a folder or a glob on this machine, and one file goes along with a job: give one file, or "
            f"s3://bucket/prefix{SHARED}"
        )


def _bring(manifest: str, run: str) -> tuple[str, list[str]]:
    """The manifest's uri in the run, and what to say of pictures that are not here."""
    from darkroom.submit.inputs import upload

    there, missing = upload(manifest, run)
    named = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
    return there, [f"{plural(len(missing), 'picture')} not here, whose rows will fail: {named}"] if missing else []
