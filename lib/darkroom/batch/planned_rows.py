"""The rows of a manifest that is known to be good, and what a plan must know of them and can know without the run:
keys, lines, ways through the stages, questions.

They are read before a run is touched, so that it stays as it was while a manifest may still turn out to be wrong; by
chunks, in processes of their own, between which they go as bytes and arrays. A run that was planned from this very
manifest has them already: then nothing is parsed again, and a start takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from json.decoder import scanstring
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

import darkroom
from darkroom.batch.input_files import far_folders
from darkroom.manifest import Abilities, Manifest, Task, row_key
from darkroom.manifest.checks import Reading
from darkroom.manifest.sources import find_parts
from darkroom.runs.reading import read_run_record
from darkroom.sampling.plans import SAMPLER_VERSION, Stage, condition_keys, goes_through, negative_key
from darkroom.sampling.prompt_keys import prompt_of
from darkroom.sampling.stage import at_size
from darkroom.sampling.trajectories import takes_no_step
from darkroom.storage import NotFound, StorageError, Store
from darkroom.storage.hashing import hashes

if TYPE_CHECKING:
    from darkroom.models.catalog import Model

MANIFEST_PART = 5_000  # rows of a file of a plan
READERS = 16  # files at once: on S3 each waits for an answer
IN_MEMORY = 64 * 2**20  # bytes
NO_STEPS = b'"no_steps"'  # a strength so small that the picture stays as it is given
CODE = ("manifest", "sampling", "batch/planned_rows.py")  # says what a row's line and key are
_FILMED = b'"task": "text_to_video"'
_BEFORE_ID, _BEFORE_KEY = '{"id": "', ', "key": "'

T = TypeVar("T")
Questions = tuple[tuple[str, tuple[str, ...]], ...]
"""Of each text encoder that a row asks, the prompts."""


def _texts(lines: list[bytes]) -> tuple[list[str], list[str]]:
    """ids and keys. Only what is before the row itself is parsed."""
    ids: list[str] = []
    keys: list[str] = []
    for line in map(bytes.decode, lines):
        row_id, end = scanstring(line, len(_BEFORE_ID))
        start = end + len(_BEFORE_KEY)
        ids.append(row_id)
        keys.append(line[start : line.index('"', start)])
    return ids, keys


def _never(encoder: str, prompt: str) -> bool:
    return False


@dataclass(frozen=True)
class Maker:
    """The model and what belongs to it, as far as the rows' keys and their way depend on it.

    encoders: of each stage, the text encoder whose embeddings it attends to, "" where it takes no text.
    finish: what else has a say in every picture (a watermark); judge: in that of a row with candidates (a scorer);
    adapters, nets: name and digest of the adapters and control networks that rows may ask for; depth: digest of the
    model that draws maps of depth.
    too_long: whether a text encoder, by its name, would cut a prompt.
    """

    revision: str
    stages: tuple[Stage, ...]
    default_size: int
    encoders: tuple[str, ...]
    finish: str = ""
    judge: str = ""
    adapters: tuple[tuple[str, str], ...] = ()
    nets: tuple[tuple[str, str], ...] = ()
    depth: str = ""
    too_long: Callable[[str, str], bool] = _never

    @classmethod
    def of(cls, model: Model, **more: Any) -> Maker:
        encoders = tuple(model.encoder_of(stage.number) if model.encoders else "" for stage in model.stages)
        beside: dict[str, Any] = {"depth": model.depth.digest if model.depth else ""}
        for name in ("adapters", "nets"):
            beside[name] = tuple((part.name, part.digest) for part in getattr(model, name))
        return cls(model.revision, model.stages, model.default_size, encoders, **beside, **more)

    def key(self, task: Task, row: dict[str, Any]) -> str:
        """The row's key: what its picture depends on. row: the task's canonical form."""
        judge = self.judge if _candidates(row) > 1 else ""
        if own := row.get("adapters"):  # what they are and not what the job calls them
            digests = dict(self.adapters)
            row = row | {"adapters": sorted([digests.get(use["adapter"], ""), use["scale"]] for use in own)}
        if own := row.get("control"):
            row = row | {"control": sorted(map(self._known_by, own), key=json.dumps)}
        return row_key(task, "+".join(filter(None, (self.revision, self.finish, judge))), SAMPLER_VERSION, row)

    def _known_by(self, use: dict[str, Any]) -> list[Any]:
        """What a row's use of a control network says in its key."""
        said = {name: value for name, value in use.items() if name != "net"}
        return [dict(self.nets).get(use["net"], ""), said, *[self.depth] * (use["preprocess"] == "depth")]

    def way(self, row: dict[str, Any]) -> list[Stage]:
        """The stages that a row goes through, in order."""
        return [stage for stage in self.stages if goes_through(row, stage, self.default_size)]

    def without_tokens(self) -> Maker:
        """As it can be sent to another process."""
        return replace(self, too_long=_never)


@dataclass(frozen=True)
class Kind:
    """What rows may share. stages: numbers; size: pixels of the largest; chosen: among candidates."""

    task: str
    stages: tuple[int, ...]
    size: int
    chosen: bool


@dataclass(frozen=True)
class Ways:
    """What rows need that are to be made. tails: what a line of work has beside the manifest's; flags: that each begins
    with, as JSON; asked, kind: int [N], indices of each row's questions and kind in `questions` and `kinds`."""

    tails: list[bytes]
    flags: list[bytes]
    asked: np.ndarray
    kind: np.ndarray
    questions: list[Questions]
    kinds: list[Kind]

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]], maker: Maker) -> Ways:
        """rows: canonical."""
        tails: list[bytes] = []
        flags: list[bytes] = []
        first = maker.stages[0].process
        says = (first.kind, first.num_timesteps, first.shift is not None)
        asked, kinds = _Numbers[Questions](), _Numbers[Kind]()
        for row in rows:
            way = maker.way(row)
            tails.append(b'"prompts": ' + _to_json(prompts_of(row)).encode())
            flags.append(NO_STEPS if takes_no_step(row, *says) else b"")
            asked.add(_questions(row, way, maker))
            size = max(max(at_size(row, stage).pixels) for stage in way)
            kinds.add(Kind(row["task"], tuple(stage.number for stage in way), size, _candidates(row) > 1))
        return cls(tails, flags, asked.array(), kinds.array(), asked.known(), kinds.known())

    def at(self, places: np.ndarray) -> Ways:
        used, asked = np.unique(self.asked[places], return_inverse=True)
        tails, flags = ([words[place] for place in places] for words in (self.tails, self.flags))
        return Ways(tails, flags, asked, self.kind[places], [self.questions[number] for number in used], self.kinds)

    def counts(self) -> Iterator[tuple[Kind, int]]:
        """How many rows there are of each kind."""
        for number, count in zip(*np.unique(self.kind, return_counts=True), strict=True):
            yield self.kinds[number], int(count)


@dataclass(frozen=True)
class PlannedRows:
    """Rows in the manifest's order. ids, keys: uint64 [N], hashes; lines: JSON of id, key, canonical row; known_ways:
    where they were worked out already."""

    ids: np.ndarray
    keys: np.ndarray
    lines: list[bytes]
    known_ways: Ways | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def pack(self) -> bytes:
        return zlib.compress(pickle.dumps(self), 1)

    @classmethod
    def unpack(cls, packed: bytes) -> PlannedRows:
        return pickle.loads(zlib.decompress(packed))

    @classmethod
    def of_lines(cls, lines: list[bytes]) -> PlannedRows:
        """As they were written into a run."""
        ids, keys = _texts(lines)
        return cls(hashes(ids), hashes(keys), lines)

    def texts(self, mask: np.ndarray) -> tuple[list[str], list[str]]:
        """ids and keys of the rows, bool [N], for which it holds."""
        return _texts([self.lines[place] for place in np.flatnonzero(mask)])

    def filmed(self, mask: np.ndarray) -> list[bool]:
        """Of the rows, bool [N], for which it holds, whether each is a video: no text holds a quote that is not marked
        as one."""
        return [_FILMED in self.lines[place] for place in np.flatnonzero(mask)]

    def where(self, mask: np.ndarray) -> PlannedRows:
        """The rows, bool [N], for which it holds."""
        if mask.all():
            return self
        places = np.flatnonzero(mask)
        lines = [self.lines[place] for place in places]
        ways = self.known_ways and self.known_ways.at(places)
        return PlannedRows(self.ids[places], self.keys[places], lines, ways)

    def first(self, count: int) -> PlannedRows:
        return self.where(np.arange(len(self)) < count)

    def ways(self, maker: Maker) -> Ways:
        return self.known_ways or Ways.of((json.loads(line)["row"] for line in self.lines), maker)


@dataclass(frozen=True)
class PlanRows:
    """From the tasks of a chunk to its planned rows, packed, and how many pictures they name in which folder elsewhere;
    it can be sent to another process."""

    maker: Maker

    def __call__(self, tasks: list[Task]) -> tuple[bytes, Counter[str]]:
        rows = [task.canonical() for task in tasks]
        keys = [self.maker.key(task, row) for task, row in zip(tasks, rows, strict=True)]
        ids = [task.id or key for task, key in zip(tasks, keys, strict=True)]
        parts = zip(ids, keys, rows, strict=True)
        lines = [_to_json({"id": row_id, "key": key, "row": row}).encode() for row_id, key, row in parts]
        far = Counter(folder for line, row in zip(lines, rows, strict=True) for folder in far_folders(line, row))
        return PlannedRows(hashes(ids), hashes(keys), lines, Ways.of(rows, self.maker)).pack(), far


class _Numbers(Generic[T]):
    """Values that repeat, as numbers."""

    def __init__(self) -> None:
        self._known: dict[T, int] = {}
        self._numbers: list[int] = []

    def add(self, value: T) -> None:
        self._numbers.append(self._known.setdefault(value, len(self._known)))

    def array(self) -> np.ndarray:
        return np.array(self._numbers, dtype=np.int64)

    def known(self) -> list[T]:
        return list(self._known)


def _questions(row: dict[str, Any], way: list[Stage], maker: Maker) -> Questions:
    encoders = [(maker.encoders[stage.number - 1], stage) for stage in way]
    return tuple((encoder, tuple(condition_keys(row, stage))) for encoder, stage in encoders if encoder)


def prompts_of(row: dict[str, Any]) -> list[str]:
    """What a row asks for, as its result row states it: every prompt or "label N", but not the negative one."""
    negative = negative_key(row)
    return [prompt_of(key) for key in condition_keys(row) if key != negative]


def _candidates(row: dict[str, Any]) -> int:
    return row.get("best_of") or 1


# Made once: json.dumps would make an encoder for every row.
_to_json = json.JSONEncoder(ensure_ascii=False).encode


def read_files(store: Store, folder: str) -> Iterator[bytes]:
    """Every file of a folder, in order; a few are read ahead."""
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(READERS, thread_name_prefix="lines") as pool:
        for key in store.list(f"{folder}/"):
            waiting.append(pool.submit(store.read, key))
            if len(waiting) == READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read_lines(store: Store, folder: str) -> Iterator[dict[str, Any]]:
    """Every line of a folder that `cut` wrote, in order."""
    for data in read_files(store, folder):
        yield from map(json.loads, data.splitlines())


class ReadRows:
    """Iterating gives planned rows, in chunks, as often as it is asked for. They wait packed: in memory, or in a
    temporary file where they are many, about 80 bytes each; or in the run, where it was planned from them before.

    far: how many pictures they name by paths that may lead elsewhere, by folder, see `far_folders`."""

    manifest: Manifest
    far: Counter[str]

    def __init__(self, uri: str, abilities: Abilities, maker: Maker, store: Store | None = None) -> None:
        """ManifestError with all problems of all rows, StorageError. store: of a run that may have them already."""
        self._uri, self._store, self._abilities, self._maker = uri, store, abilities, maker
        self._planned = 0  # rows of the plan
        self._plan = self._planned_before()
        if self._plan is None:
            self._read()

    @property
    def mark(self) -> dict[str, Any]:
        """What a run that is planned from these rows, all of them, has to remember: see `_planned_before`."""
        manifest = self.manifest
        about = {"rows": manifest.rows, "by_task": manifest.by_task, "far": dict(self.far)}
        return about | {"from": _fingerprint(manifest.digest, self._abilities, self._maker)}

    def __iter__(self) -> Iterator[PlannedRows]:
        if self._store is not None and self._plan is not None:
            folder, counts = f"manifest/{self._plan}", list(range(self._planned, 0, -MANIFEST_PART))
            if len(list(self._store.list(f"{folder}/"))) == len(counts):
                for left, data in zip(counts, read_files(self._store, folder), strict=True):
                    yield self._rows_of(data.split(b"\n"), min(left, MANIFEST_PART), folder)
                return
            # A job has planned anew since, or a file is lost: its rows would be taken for some that left the manifest.
            self._plan = None
            self._read()
        self._file.seek(0)
        for length in self._lengths:
            yield PlannedRows.unpack(self._file.read(length))

    def _rows_of(self, lines: list[bytes], count: int, folder: str) -> PlannedRows:
        """Of a file of the plan. StorageError."""
        with suppress(ValueError):
            if len(lines) == count and lines[-1].endswith(b"}"):
                return PlannedRows.of_lines(lines)
        assert self._store is not None
        raise StorageError(f"a file in {self._store.uri(folder)} is damaged: remove that folder, and start again")

    def _read(self) -> None:
        reading = Reading(self._uri, self._abilities, PlanRows(self._maker.without_tokens()))
        # It lives as long as this object.
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._lengths: list[int] = []
        self.far = Counter()
        for packed, far in reading:
            self.far += far
            self._file.write(packed)
            self._lengths.append(len(packed))
        self.manifest = reading.manifest

    def _planned_before(self) -> str | None:
        """The run's plan, where it was made from these bytes, for this model, by this code. What was to be warned of
        was said when they were read."""
        try:
            run = read_run_record(self._store) if self._store else {}
            mark = run.get("checked")
            if not mark:
                return None
            source = find_parts(self._uri)
            digest = source.digest_now()
        except (NotFound, ValueError):
            return None
        if mark["from"] != _fingerprint(digest, self._abilities, self._maker):
            return None
        able, self.far = self._abilities, Counter(mark.get("far"))
        self.manifest = Manifest(self._uri, source.base, digest, mark["rows"], mark["by_task"], able.sizes)
        self._planned = run["manifest"]["rows"]
        return run["plan"]


def _fingerprint(digest: str, abilities: Abilities, maker: Maker) -> str:
    able = asdict(replace(abilities, prompt_tokens=None))
    own = [maker.revision, maker.finish, maker.judge, maker.default_size, SAMPLER_VERSION]
    own += [maker.adapters, maker.nets, maker.depth]
    return hashlib.sha256(json.dumps([digest, able, own, _code()], sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of the program's own text, as far as rows depend on it: a version may not have risen."""
    root = Path(darkroom.__file__).parent
    files = sorted(file for name in CODE for file in (root / name, *(root / name).rglob("*.py")) if file.is_file())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
