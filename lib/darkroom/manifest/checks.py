"""The whole manifest held against what the model can do, before anything is loaded: every problem in one message."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from darkroom.manifest.readers import file_name, read_rows, rows_in
from darkroom.manifest.sweeps import Row
from darkroom.manifest.tasks import TASKS, Anagram, Hybrid, Inpaint, Resample, Task, Upscale, nearest, parse_task
from darkroom.sampling.schedules import start_index, timesteps
from darkroom.storage import NotFound, read_uri

LISTED_PROBLEMS = 50
# One mistake in a generated manifest is in each of its rows: a text found more often than this is listed once.
LISTED_PLACES = 3
# A manifest of millions of rows with another problem in each must not fill the memory with sentences.
KEPT_TEXTS = 10_000
SAMPLERS = {"diffusion": ("ddpm", "ddim"), "flow": ("euler", "heun", "midpoint")}
BRANCH_NAMES = {"views": "view", "components": "component"}


class ManifestError(ValueError):
    """The manifest asks for what cannot be done. problems: all of them, each with its file and line or row."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"the manifest has {count:,} problem{'s' if count > 1 else ''}:", *self.problems[:LISTED_PROBLEMS]]
        if count > LISTED_PROBLEMS:
            lines.append(f"... and {count - LISTED_PROBLEMS:,} more")
        return "\n  ".join(lines)


@dataclass(frozen=True)
class Abilities:
    """What a model can do.

    sizes: ascending output sizes in pixels; default_size: the one a row gets that names none.
    num_timesteps: noise levels of the process, what `stride` and `steps` divide.
    num_classes: labels 0..num_classes - 1 may be asked for; None where the model takes none.
    upscale: whether it has upper stages that can be run alone.
    """

    name: str
    sizes: tuple[int, ...]
    default_size: int
    conditioning: Literal["text", "label", "none"]
    process: Literal["diffusion", "flow"]
    num_timesteps: int
    num_classes: int | None = None
    upscale: bool = False


@dataclass(frozen=True)
class Manifest:
    """A manifest without problems.

    base: the folder its relative paths start from, absolute; digest: SHA-256 of the file; by_task: rows of each task.
    """

    uri: str
    base: str
    digest: str
    rows: int
    by_task: dict[str, int]

    def tasks(self, limit: int | None = None) -> Iterator[Task]:
        """The tasks once more, in order. ManifestError when the file is no longer the one that was checked."""
        content = _content(self.uri)
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise ManifestError([f"{file_name(self.uri)}: the file changed after it was checked; start again"])
        for row in itertools.islice(rows_in(self.uri, content), limit):
            yield parse_task(row.data)


def open_manifest(uri: str, abilities: Abilities) -> Manifest:
    """Reads and checks every row. ManifestError for what the user can mend, StorageError when storage fails."""
    content = _content(uri)
    by_task = Counter(task.task for task in _checked(lambda: rows_in(uri, content), file_name(uri), abilities))
    return Manifest(uri, _folder(uri), hashlib.sha256(content).hexdigest(), by_task.total(), dict(by_task))


def check(uri: str, abilities: Abilities) -> Iterator[Task]:
    """Tasks of the good rows as they are read; ManifestError at the end if any row was not good."""
    return _checked(lambda: read_rows(uri), file_name(uri), abilities)


def misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    """Why this model cannot do this task, in sentences."""
    yield from _size_misfits(task, abilities)
    yield from _question_misfits(task, abilities)
    offered = SAMPLERS[abilities.process]
    if task.sampler is not None and task.sampler not in offered:
        model = f"the {abilities.process} model '{abilities.name}'"
        yield f"the sampler '{task.sampler}' does not fit {model}, which takes {' or '.join(offered)}"
    yield from _schedule_misfits(task, abilities)


def sentences(error: ValidationError, row: dict[str, Any]) -> list[str]:
    """Pydantic's findings about a row, one plain sentence each, with the value that was given."""
    found = [_sentence(finding, row) for finding in error.errors(include_url=False)]
    # A misspelt key is one mistake, not also the absence of the one that was meant.
    hints = [re.fullmatch(r"(.*)unknown key '.*', did you mean ('.*')\?", text) for text in found]
    meant = {f"{hint[1]}{hint[2]} is missing" for hint in hints if hint}
    return [text for text in found if text not in meant]


def _folder(uri: str) -> str:
    folder, slash, _ = uri.rpartition("/")
    # Absolute, because the workers that will open the images stand in other folders.
    return folder if "://" in uri else os.path.abspath(os.path.expanduser(folder or slash))


def _content(uri: str) -> bytes:
    try:
        return read_uri(uri)
    except (NotFound, ValueError) as error:
        raise ManifestError([f"{file_name(uri)}: {error}"]) from error


def _checked(rows: Callable[[], Iterator[Row]], name: str, abilities: Abilities) -> Iterator[Task]:
    problems = _Problems()
    ids = array("Q")
    number = 0
    for number, row in enumerate(rows(), 1):
        texts = [row.problem] if row.problem else []
        if isinstance(row.data.get("id"), str):
            ids.append(_hash(row.data["id"]))
        if not texts:
            try:
                task = parse_task(row.data)
            except ValidationError as error:
                texts = sentences(error, row.data)
            else:
                texts = list(misfits(task, abilities))
        for text in texts:
            problems.add(number, row.where, text)
        if not texts:
            yield task
    if not number:
        problems.add(0, name, "the manifest has no rows")
    _add_duplicates(problems, rows, ids)
    if problems:
        raise ManifestError(problems.lines())


class _Problems:
    """Problems by their text, so that a flood of one kind takes the memory and the lines of one."""

    def __init__(self) -> None:
        self._places: dict[str, list[tuple[int, str]]] = {}
        self._last: dict[str, tuple[int, str]] = {}
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, number: int, where: str, text: str) -> None:
        if text not in self._places and len(self._places) == KEPT_TEXTS:
            self._dropped += 1
            return
        places = self._places.setdefault(text, [])
        if len(places) < LISTED_PLACES:
            places.append((number, where))
        count, _ = self._last.get(text, (0, ""))
        self._last[text] = (count + 1, where)

    def lines(self) -> list[str]:
        found: list[tuple[int, str]] = []
        for text, places in self._places.items():
            count, last = self._last[text]
            if count > LISTED_PLACES:
                number, where = places[0]
                rest = f"(so in {count - 1:,} more places, the last is {last})"
                found.append((number, f"{where}: {text} {rest}"))
            else:
                found += [(number, f"{where}: {text}") for number, where in places]
        lines = [line for _, line in sorted(found, key=lambda entry: entry[0])]
        return lines + ([f"and {self._dropped:,} problems that were not kept"] if self._dropped else [])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _add_duplicates(problems: _Problems, rows: Callable[[], Iterator[Row]], ids: array[int]) -> None:
    """Hashes are all that is kept of the ids; only when two are equal are the rows read again, to name both places."""
    hashes, counts = np.unique(np.frombuffer(ids, dtype=np.uint64), return_counts=True)
    suspects = set(hashes[counts > 1].tolist())
    if not suspects:
        return
    places: dict[str, tuple[str, int, str, int]] = {}
    for number, row in enumerate(rows(), 1):
        given = row.data.get("id")
        if not isinstance(given, str) or _hash(given) not in suspects:
            continue
        first, second, where, count = places.get(given, (row.where, 0, "", 0))
        places[given] = (first, number if count == 1 else second, row.where if count == 1 else where, count + 1)
    for given, (first, number, where, count) in places.items():
        if count > 1:
            often = "twice" if count == 2 else f"{count:,} times"
            problems.add(number, where, f"the id {_shown(given)} is given {often}, first in {first}")


def _size_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    sizes = abilities.sizes
    if isinstance(task, Upscale):
        if not abilities.upscale:
            yield f"the model '{abilities.name}' has no stage that could upscale"
            return
        sizes = sizes[1:]
    size = abilities.default_size if task.size is None else task.size
    if size not in sizes:
        given = "no size is given and the model's own" if task.size is None else "the size"
        does = "upscales to" if isinstance(task, Upscale) else "makes"
        yield f"{given} {size} is not one the model '{abilities.name}' {does}: {', '.join(map(str, sizes))}"


def _question_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    takes = {"text": "prompt", "label": "label", "none": None}[abilities.conditioning]
    model = f"the model '{abilities.name}' " + (f"takes a {takes}" if takes else "takes neither prompt nor label")
    for place, branch in _asked(task):
        for name in ("prompt", "label"):
            value = getattr(branch, name)
            if name == takes and value is None:
                yield f"{place}'{name}' is missing, {model}"
            if name != takes and value is not None:
                yield f"{place}'{name}' is given, {model}"
        classes = abilities.num_classes
        if takes == "label" and branch.label is not None and classes is not None and branch.label >= classes:
            yield f"{place}'label' must be below {classes}, the classes of '{abilities.name}', was {branch.label}"
    if task.negative_prompt and takes != "prompt":
        yield f"'negative_prompt' is given, {model}"


def _asked(task: Task) -> Iterator[tuple[str, Any]]:
    if isinstance(task, Anagram):
        yield from ((f"view {number}: ", view) for number, view in enumerate(task.views, 1))
    elif isinstance(task, Hybrid):
        for number, component in enumerate(task.components, 1):
            if component.image is None:
                yield f"component {number}: ", component
    else:
        yield "", task


def _schedule_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    if task.timesteps is not None and abilities.process == "flow":
        yield f"'timesteps' names a diffusion schedule, '{abilities.name}' is a flow model: give 'steps'"
        return
    # As the plans have it: flow has no timesteps to stride over, so a stride counts in thousandths of the way.
    levels = 1000 if abilities.process == "flow" else abilities.num_timesteps
    try:
        count = _schedule_length(levels, task.steps, task.stride, task.timesteps)
    except ValueError as error:
        yield str(error)
        return
    start, strength = getattr(task, "start", None), getattr(task, "strength", None)
    if start is not None and start > count:
        yield f"'start' is an index into a schedule of {count} steps, was {start}"
        return
    if isinstance(task, Inpaint) and task.resample is not None:
        walked = count - (start or 0) if strength is None else count - start_index(count, strength)
        # RePaint never jumps from the clean picture, so the last step is not part of any stretch.
        if task.resample.jump > walked - 1:
            yield (
                f"resample: 'jump' must be at most {max(walked - 1, 0)}, "
                f"as {walked} steps are walked and the last is never repeated, was {task.resample.jump}"
            )


@functools.lru_cache(maxsize=1024)
def _schedule_length(num_timesteps: int, steps: int | None, stride: int | None, name: str | None) -> int:
    return len(timesteps(num_timesteps, steps=steps, stride=stride, name=name))


def _sentence(finding: Any, row: dict[str, Any]) -> str:
    kind, place, context, given = finding["type"], list(finding["loc"]), finding.get("ctx", {}), finding["input"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _task_sentence(row)
    task = place.pop(0)
    prefix = f"{BRANCH_NAMES[place.pop(0)]} {place.pop(0) + 1}: " if len(place) > 1 and place[0] in BRANCH_NAMES else ""
    if kind == "value_error":
        return prefix + str(context["error"])
    field = place.pop() if place else ""
    prefix += "".join(f"{name}: " for name in place)
    if kind == "extra_forbidden":
        model, present = (Resample, row["resample"]) if place else (TASKS[task], row)
        return prefix + _unknown_key(field, task, model, present)
    if kind == "missing":
        return f"{prefix}'{field}' is missing"
    bounds = {name: _written(bound) for name, bound in context.items()}
    must = _MUST[kind].format_map(bounds) if kind in _MUST else f"is wrong: {finding['msg']}"
    subject = f"{prefix}'{field}' " if field else prefix
    hint = nearest(given, re.findall(r"'(.*?)'", context["expected"])) if kind == "literal_error" else ""
    return f"{subject}{must}, was {_shown(given)}{hint}"


def _task_sentence(row: dict[str, Any]) -> str:
    if "task" not in row:
        return f"'task' is missing, wanted one of {', '.join(TASKS)}"
    hint = nearest(row["task"], TASKS)
    return f"unknown task {_shown(row['task'])}" + (hint or f", wanted one of {', '.join(TASKS)}")


def _unknown_key(key: str, task: str, model: Any, present: dict[str, Any]) -> str:
    # A key of another task is rightly spelt: 'mask' must not be taken for a misspelt 'task'.
    if not any(key in other.model_fields for other in TASKS.values()):
        hint = nearest(key, model.model_fields.keys() - present.keys())
        if hint:
            return f"unknown key '{key}'{hint}"
    return f"unknown key '{key}', which {task} does not take"


def _written(bound: Any) -> Any:
    """A bound as one writes it: a float field's 100.0 is 100."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_MUST = {
    "literal_error": "must be one of {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "number_type": "must be a number",
    "int_from_float": "must be a whole number",
    "finite_number": "must be a finite number",
    "control_character": "must not hold control characters",
    "string_type": "must be text",
    "not_unicode": "must be valid Unicode text",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list",
    "no_items": "must not be empty",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "invalid_key": "is not a key, keys must be text",
}
