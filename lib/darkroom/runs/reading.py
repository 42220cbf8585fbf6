"""A run as people read it: its rows as Arrow or pandas, its pictures as PIL, all of it as a data set."""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkroom.runs.ledger import Ledger
from darkroom.runs.results import SCHEMA
from darkroom.storage import NotFound, Store, decode, image_key_of, open_store
from darkroom.storage.hashing import hashes

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame
    from PIL import Image

SHOWN, SIDE = 24, 96  # pictures of a notebook's contact sheet, and pixels of each
_RECORDED = {"plan", "manifest", "model", "options"}
_PLACE = ["id", "image", "image_uri", "status"]


class NoRun(ValueError):
    """There is no run of `generate` at the place that was named."""


def open_run(uri: str) -> Run:
    """The run in a folder or at an s3:// uri, under way or finished. NoRun where there is none.

    >>> run = open_run("runs/demo")                 # doctest: +SKIP
    >>> run.to_pandas().groupby("task").seconds.sum()     # doctest: +SKIP
    >>> run.picture("two-five-flipped").show()      # doctest: +SKIP
    """
    record = read_run_record(open_store(str(uri)))
    if record.get("kind") == "training":
        raise NoRun(f"{uri} holds a training: `open_model` opens the model, `darkroom report` draws its curves")
    return Run(str(uri), record)


def read_run_record(store: Store) -> dict[str, Any]:
    """What run.json says, of a training too. NoRun where there is none, or none that a job has written."""
    try:
        data = store.read("run.json")
    except NotFound:
        raise NoRun(f"there is no run in {store.root}: it has no run.json") from None
    with suppress(ValueError):
        record = json.loads(data)
        if isinstance(record, dict) and (record.get("kind") == "training" or _is_whole(record)):
            return record
    raise NoRun(f"{store.uri('run.json')} is damaged: it is no record of a run")


def _is_whole(record: dict[str, Any]) -> bool:
    return record.keys() >= _RECORDED and all(isinstance(record[name], dict) for name in _RECORDED - {"plan"})


class Run:
    """A run to be read. record: its run.json: options, model, versions. What it holds is read anew with every call."""

    def __init__(self, uri: str, record: dict[str, Any]) -> None:
        self.uri, self.record = uri, record
        self._store = open_store(uri)

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """A row for each row of the manifest that is done or failed: see `darkroom.runs.SCHEMA` for the columns.

        columns: those that are wanted; unless given all but `image`, since pictures may lie inside: see `pictures`.
        ValueError for one that there is not.
        """
        wanted = [name for name in SCHEMA.names if name != "image"] if columns is None else list(columns)
        if unknown := [name for name in wanted if name not in SCHEMA.names]:
            raise ValueError(f"a run has no column {', '.join(map(repr, unknown))}: wanted {', '.join(SCHEMA.names)}")
        empty = SCHEMA.empty_table().select(wanted)
        return pa.concat_tables([empty, *self._tables(wanted)])

    def to_pandas(self) -> DataFrame:
        """`rows()` as a data frame; dates are timestamps, lists are arrays. ImportError where pandas is missing."""
        return self.rows().to_pandas()

    def failed(self) -> pa.Table:
        """id, task and error of the rows that failed."""
        rows = self.rows(["id", "task", "status", "error"])
        return rows.filter(pc.equal(rows["status"], "failed")).drop_columns(["status"])

    def picture(self, row_id: str) -> Image.Image:
        """The picture of a row, RGB. KeyError where no row with that id has one."""
        for _, picture in self.pictures([row_id]):
            return picture
        raise KeyError(f"{self.uri} has no picture of a row {row_id!r}")

    def pictures(self, ids: Iterable[str] | None = None) -> Iterator[tuple[str, Image.Image]]:
        """(id, picture) of every good row, or of those with these ids, in the order of the run, one at a time.

        StorageError where a picture is gone, ValueError where it is damaged.
        """
        from PIL import Image

        wanted = None if ids is None else set(ids)
        for row in self._good_rows(wanted):
            yield row["id"], Image.fromarray(decode(self._bytes(row), f"the picture of row {row['id']}"))

    def to_datasets(self) -> Dataset:
        """The good rows as a data set of Hugging Face's `datasets`, `image` among the columns, in memory.

        Pictures of a local run are read when they are asked for; those of a bucket come along. ImportError where
        `datasets` is not installed.
        """
        try:
            import datasets
        except ImportError:
            raise ImportError("to_datasets wants the package `datasets`: pip install datasets") from None
        good = [row | {"image": self._reference(row)} for row in self._good_rows(None, SCHEMA.names)]
        table = pa.Table.from_pylist(good, schema=SCHEMA.remove_metadata())
        return datasets.Dataset(table).cast_column("image", datasets.Image())

    @property
    def summary(self) -> dict[str, Any]:
        """What the job wrote at its end: counts by task and status, seconds, evaluations, images per second. Of a run
        that is under way rows and counts alone, as they are now."""
        try:
            return json.loads(self._store.read("summary.json"))
        except NotFound:
            log = Ledger(self._store).read()
        return {"rows": log.rows, "counts": {task: dict(counts) for task, counts in log.counts.items()}}

    def __repr__(self) -> str:
        statuses: Counter[str] = Counter()
        for counts in self.summary["counts"].values():
            statuses.update(counts)
        told = ", ".join(f"{count:,} {status}" for status, count in sorted(statuses.items(), reverse=True))
        return f"Run({self.uri!r}: {told or 'no rows yet'}; model {self.record['model']['name']})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the first pictures, each with what was asked for."""
        rows = [row for row, _ in zip(self._good_rows(None, [*_PLACE, "prompts"]), range(SHOWN), strict=False)]
        figures = "".join(self._figure(row) for row in rows)
        return f"<div>{html.escape(repr(self))}</div><div>{figures}</div>"

    def _figure(self, row: dict[str, Any]) -> str:
        data = base64.b64encode(self._bytes(row)).decode()
        told = html.escape("; ".join([row["id"], *row["prompts"]]), quote=True)
        style = f"width:{SIDE}px;height:{SIDE}px;object-fit:contain;image-rendering:pixelated;margin:2px"
        return f'<img src="data:image/png;base64,{data}" title="{told}" alt="{told}" style="{style}">'

    def _good_rows(self, ids: set[str] | None, columns: Sequence[str] = _PLACE) -> Iterator[dict[str, Any]]:
        for table in self._tables(columns) if ids is None else self._tables_with(ids):
            good = pc.equal(table["status"], "ok")
            if ids is not None:
                good = pc.and_(good, pc.is_in(table["id"], pa.array(sorted(ids), pa.string())))
            for batch in table.filter(good).to_batches(max_chunksize=64):  # pictures may lie inside
                yield from batch.to_pylist()

    def _reference(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row's picture as `datasets` takes it."""
        if row["image"]["bytes"] or self._store.root.startswith("s3://"):
            return {"bytes": self._bytes(row), "path": row["image"]["path"]}
        return {"bytes": None, "path": self._store.uri(image_key_of(row["image_uri"]))}

    def _bytes(self, row: dict[str, Any]) -> bytes:
        return row["image"]["bytes"] or self._store.read(image_key_of(row["image_uri"]))

    def _tables_with(self, ids: set[str]) -> Iterator[pa.Table]:
        """The rows of these ids that count: pictures may lie inside, and all of a run's are too much to find one in."""
        ledger, wanted = Ledger(self._store), hashes(ids)
        for shard in ledger.read().shards.values():
            if len(places := np.flatnonzero(np.isin(shard.ids, wanted))):
                yield from ledger.rows(shard, places)

    def _tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows that count, shard by shard."""
        ledger = Ledger(self._store)
        for shard in ledger.read().shards.values():
            yield ledger.table(shard, columns)
