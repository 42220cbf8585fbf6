"""Which rows of a run an export holds, and in which split and shard each of them lies."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkroom.phases import plural
from darkroom.runs import SCHEMA, Ledger, Shard
from darkroom.sampling.names import nearest
from darkroom.storage import NotFound, StorageError, Store, image_key_of
from darkroom.storage.hashing import HashSet, hashes

Format = Literal["webdataset", "imagefolder", "huggingface", "parquet"]
FORMATS: tuple[str, ...] = get_args(Format)
VERSION = 1  # of what is written: with another one, shards that were begun are not gone on with
# Bytes of a row beside its picture, about: a tar begins each of its three files anew, with a header of 512.
ROW_BYTES = {"webdataset": 3_300, "imagefolder": 800, "huggingface": 400, "parquet": 400}
# Of a shard 9,999, whatever is rounded: the hub takes no folder of more than 10,000 files, and one is metadata.jsonl.
MOST_ROWS = {"imagefolder": 9_998.5}
_MOST_ROWS, _SAMPLED, _SAMPLED_OF_FILE, _PROMPTS = 100_000, 64, 8, 12
_PLANNED = ["status", "task", "width", "height", "seed", "prompts", "image_uri"]
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SHUFFLES = {"random", "randomblob", "load_extension"}  # functions of SQLite: not the same twice, or not of rows
# Texts, names and comments of SQL; a group is what stands in double quotes.
_QUOTED = re.compile(r"""'(?:[^']|'')*'|`(?:[^`]|``)*`|\[[^]]*]|--[^\n]*|/\*.*?\*/|"((?:[^"]|"")*)\"""", re.DOTALL)


@dataclass(frozen=True)
class ExportOptions:
    """splits: name -> its part, together 1; shard_bytes: of a shard, about; png_text: pictures carry their row;
    licence: of the data set, for its card; push: OWNER/NAME of a repository of the hub."""

    run: str
    out: str
    format: str
    where: str | None = None
    splits: tuple[tuple[str, float], ...] = (("train", 1.0),)
    shard_bytes: int = 10**9
    png_text: bool = False
    licence: str | None = None
    push: str | None = None
    address: str | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"--format is {self.format!r}, wanted {', '.join(FORMATS)}{nearest(self.format, FORMATS)}")
        if self.shard_bytes < 1:
            raise ValueError("--shard-size is 0, wanted a size such as 500MB")
        if self.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push):
            raise ValueError(f"--push is {self.push!r}, wanted OWNER/NAME")


def read_splits(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """`train=0.9,test=0.1`, in one text or several; all is train unless given. ValueError."""
    parts = [part.strip() for text in texts for part in text.split(",")] or ["train=1"]
    splits = {}
    for part in parts:
        name, _, share = part.partition("=")
        if not re.fullmatch(r"[A-Za-z]\w*=(0?\.\d+|1|1\.0|0?\.\d+e-\d+)", part) or name in splits or not float(share):
            raise ValueError(f"--split has {part!r}, wanted names with their parts, such as train=0.9,test=0.1")
        splits[name] = float(share)
    if abs(sum(splits.values()) - 1) > 1e-6:
        raise ValueError(f"the parts of --split are {sum(splits.values()):g} together, wanted 1")
    return tuple(splits.items())


def read_size(text: str) -> int:
    """Bytes: `500MB`, `1GiB`, a number. ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B)?", text.strip().upper())
    if not found:
        raise ValueError(f"--shard-size is {text!r}, wanted a size such as 500MB, 1GB or 1GiB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


class RowFilter:
    """Rows that a condition in SQL is true of. SQLite reads it, of Python's own library: no dialect of ours, and no
    package more. The condition sees one row at a time: subqueries are refused.

    columns: of the run, that it needs. `text` is the first prompt; lists are JSON, as are `parameters` and `scores`:
    `parameters ->> 'reduction'`.
    """

    def __init__(self, where: str) -> None:
        self.where, self._asked = where, dict[str, None]()
        # What double quotes hold and is no column, SQLite takes for a text, and a slip in a name for a condition that
        # holds for no row, or for all. Between backticks a name is a name.
        self._sql = _QUOTED.sub(lambda found: found[0] if found[1] is None else _backticked(found[1]), where)
        self._all = ["text", *(name for name in SCHEMA.names if name != "image")]
        self._select(self._table(self._all, []), self._note)
        self._asked = self._asked or {"id": None}
        self.columns = ["prompts" if name == "text" else name for name in self._asked]

    def matches(self, table: pa.Table) -> np.ndarray:
        """bool [N]. table: with the filter's columns."""
        columns = {name: table[name].to_pylist() for name in self.columns}
        if "text" in self._asked:
            columns["text"] = [prompts[0] if prompts else None for prompts in columns["prompts"]]
        rows = zip(*(map(_plain, columns[name]) for name in self._asked), strict=True)
        found = self._select(self._table(list(self._asked), rows))
        mask = np.zeros(table.num_rows, dtype=bool)
        mask[[number - 1 for (number,) in found]] = True
        return mask

    def _table(self, columns: Sequence[str], rows: Any) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:")
        connection.execute(f"CREATE TABLE rows ({', '.join(map(_quoted, columns))})")
        connection.executemany(f"INSERT INTO rows VALUES ({', '.join('?' * len(columns))})", rows)
        return connection

    def _select(self, connection: sqlite3.Connection, authorize: Any = None) -> list[tuple[int]]:
        self._selects = 0
        connection.set_authorizer(authorize)
        try:
            return connection.execute(f"SELECT rowid FROM rows WHERE ({self._sql}\n)").fetchall()
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise ValueError(self._sentence(str(error))) from None
        finally:
            connection.close()

    def _note(self, action: int, first: str | None, second: str | None, *ignored: Any) -> int:
        self._selects += action == sqlite3.SQLITE_SELECT
        if action == sqlite3.SQLITE_READ and second in self._all:
            self._asked[second] = None
        allowed = action == sqlite3.SQLITE_READ or (action == sqlite3.SQLITE_SELECT and self._selects == 1)
        allowed |= action == sqlite3.SQLITE_FUNCTION and second not in _SHUFFLES
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    def _sentence(self, error: str) -> str:
        if error.startswith("not authorized"):
            error = "it may ask of a row's columns alone, without SELECT or chance"
        name = error.rpartition(": ")[2] if error.startswith("no such column") else ""
        hint = nearest(name, self._all) if name else ""
        hint = hint or ("; a text stands in single quotes" if name and '"' in self.where else "")
        return f"--where {self.where!r}: {error}{hint}; wanted a condition of SQL over {', '.join(self._all)}"


@dataclass(frozen=True)
class Piece:
    """Rows of one Parquet file of the run. places: int32 [N], in ascending order."""

    file: str
    places: np.ndarray


@dataclass(frozen=True)
class ExportShard:
    """name: of the file, or of the folder, without what its format adds."""

    split: str
    number: int
    of: int
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"

    @property
    def rows(self) -> int:
        return sum(len(piece.places) for piece in self.pieces)


@dataclass
class Facts:
    """What is said of the rows together. seeds, prompts: how many there are; examples: the first prompts."""

    tasks: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    least_seed: int | None = None
    most_seed: int | None = None
    seeds: int = 0
    prompts: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """bytes_per_pixel: of the pictures' files, that shards were cut by; digest: of all that has a say in a byte."""

    shards: tuple[ExportShard, ...]
    files: dict[str, Shard]
    facts: Facts
    bytes_per_pixel: float
    digest: str


class _Selection:
    """Rows as arrays, file by file, 20 bytes each, and what is counted on the way."""

    def __init__(self, options: ExportOptions, store: Store) -> None:
        self.store, self.ledger = store, Ledger(store)
        self.filter = RowFilter(options.where) if options.where else None
        self.columns = list(dict.fromkeys([*_PLANNED, *(self.filter.columns if self.filter else ())]))
        self.shares = np.cumsum([share for _, share in options.splits])
        self.names = [name for name, _ in options.splits]
        self.facts, self.seeds, self.prompts = Facts(), HashSet(), HashSet()
        self.pixels_sampled: list[tuple[str, int, float]] = []  # uri, pixels, bytes where the picture lies inside
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # places, pixels, numbers of splits

    def add(self, shard: Shard) -> None:
        """Those of a file's rows that are wanted."""
        table = self.ledger.table(shard, self.columns)
        wanted = pc.equal(table["status"], "ok").to_numpy()
        if self.filter:
            wanted = wanted & self.filter.matches(table)
        places = np.flatnonzero(wanted)
        rows = table.select(_PLANNED).take(places)
        width, height = (rows[name].fill_null(0).to_numpy().astype(np.int64) for name in ("width", "height"))
        # By the key and not by the id: rows that ask for the same are the same picture, and lie in one split.
        at = shard.keys[places] / 2.0**64
        splits = np.minimum(np.searchsorted(self.shares, at, side="right"), len(self.shares) - 1)
        self.parts.append((places.astype(np.int32), width * height, splits.astype(np.int8)))
        self._count(rows, width, height, splits)
        for place in np.unique(np.linspace(0, len(places) - 1, min(len(places), _SAMPLED_OF_FILE)).astype(int)):
            inside = shard.bytes / shard.rows
            self.pixels_sampled.append((rows["image_uri"][int(place)].as_py(), int((width * height)[place]), inside))

    def _count(self, rows: pa.Table, width: np.ndarray, height: np.ndarray, splits: np.ndarray) -> None:
        facts = self.facts
        facts.tasks.update({one["values"]: one["counts"] for one in rows["task"].value_counts().to_pylist()})
        sizes, counts = np.unique(np.stack([width, height]), axis=1, return_counts=True)
        facts.sizes.update(dict(zip(zip(*sizes.tolist(), strict=True), counts.tolist(), strict=True)))
        facts.splits.update({self.names[number]: int(np.sum(splits == number)) for number in np.unique(splits)})
        seeds = rows["seed"].drop_null().to_numpy().astype(np.int64)
        self.seeds.add(seeds.view(np.uint64))
        if len(seeds):
            least, most = int(seeds.min()), int(seeds.max())
            facts.least_seed = least if facts.least_seed is None else min(least, facts.least_seed)
            facts.most_seed = most if facts.most_seed is None else max(most, facts.most_seed)
        texts = list(filter(None, pc.unique(pc.list_flatten(rows["prompts"])).to_pylist()))
        new = self.prompts.add(hashes(texts))
        facts.examples += [text for text, first in zip(texts, new, strict=True) if first][:_PROMPTS]
        del facts.examples[_PROMPTS:]

    def bytes_per_pixel(self) -> float:
        """Of the pictures' files, by some of them."""
        sample = self.pixels_sampled[:: -(-len(self.pixels_sampled) // _SAMPLED)]
        size = pixels = 0.0
        for uri, own, inside in sample:
            try:
                size += self.store.size(image_key_of(uri)) if uri else inside
            except NotFound:
                raise lost(f"the picture {image_key_of(uri)} is gone", self.store) from None
            pixels += own
        return size / pixels if pixels else 0.0


def make_plan(options: ExportOptions, store: Store, bytes_per_pixel: float | None = None) -> Plan:
    """store: of the run; bytes_per_pixel: of a plan that is gone on with. ValueError where no row is wanted, or for a
    wrong condition; StorageError."""
    selection = _Selection(options, store)
    files = selection.ledger.read().shards
    for shard in files.values():
        selection.add(shard)
    facts = selection.facts
    if count := facts.tasks.get("text_to_video"):
        raise ValueError(
            f"{plural(count, 'row is a video', 'rows are videos')}, of which an export would hold the first frame "
            "alone: leave them out by --where \"task != 'text_to_video'\""
        )
    facts.seeds, facts.prompts = len(selection.seeds), len(selection.prompts)
    if not facts.splits:
        which = f" for which {options.where!r} is true" if options.where else ""
        raise ValueError(f"{options.run} has no picture{which}: nothing to export")
    if bytes_per_pixel is None:
        bytes_per_pixel = selection.bytes_per_pixel()
    shards = tuple(_shards(options, list(files), selection.parts, bytes_per_pixel))
    digest = hashlib.sha256(json.dumps(identity(options)).encode())
    for shard in shards:
        for piece in shard.pieces:
            told = f"{shard.name} {files[piece.file].sha256} "
            digest.update(told.encode() + piece.places.astype("<i4").tobytes())
    return Plan(shards, files, facts, bytes_per_pixel, digest.hexdigest())


def lost(what: str, run: Store) -> StorageError:
    """The error for a picture of the run that cannot be exported."""
    return StorageError(f"{what}; `darkroom audit {run.root} --fix`, then `darkroom generate` as before, makes it anew")


def identity(options: ExportOptions) -> dict[str, Any]:
    """Of the options those that have a say in a byte of a shard."""
    names = ("format", "where", "splits", "shard_bytes", "png_text")
    return {"version": VERSION} | {name: value for name, value in asdict(options).items() if name in names}


def _shards(
    options: ExportOptions, files: list[str], parts: Sequence[tuple[np.ndarray, ...]], per_pixel: float
) -> Iterator[ExportShard]:
    """In the order of the run's log, each about as large as was asked for. parts: see `_Selection`."""
    least = options.shard_bytes / MOST_ROWS.get(options.format, _MOST_ROWS)  # bytes that a row counts as
    for number, (split, _) in enumerate(options.splits):
        chosen = [(at, places[own == number], pixels[own == number])
                  for at, (places, pixels, own) in enumerate(parts)]  # fmt: skip
        places = np.concatenate([part[1] for part in chosen])
        if not len(places):
            continue
        homes = np.repeat([at for at, *_ in chosen], [len(part[1]) for part in chosen])
        sizes = np.maximum(np.concatenate([part[2] for part in chosen]) * per_pixel + ROW_BYTES[options.format], least)
        ends = np.cumsum(sizes)
        shards = np.floor((ends - sizes) / options.shard_bytes).astype(np.int64)
        shards = np.unique(shards, return_inverse=True)[1]
        for at in range(count := int(shards[-1]) + 1):
            here = slice(*np.searchsorted(shards, [at, at + 1]))
            yield ExportShard(split, at, count, tuple(_pieces(files, homes[here], places[here])))


def _pieces(files: list[str], homes: np.ndarray, places: np.ndarray) -> Iterator[Piece]:
    for home in np.unique(homes):
        yield Piece(files[home], places[homes == home])


def _plain(value: Any) -> Any:
    """As SQLite keeps it; what is absent is NULL."""
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return value if isinstance(value, (int, float)) else (str(value) if value not in (None, "") else None)


def _backticked(quoted: str) -> str:
    name = quoted.replace('""', '"').replace("`", "``")
    return f"`{name}`"


def _quoted(name: str) -> str:
    return f'"{name}"'
