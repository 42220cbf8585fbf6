"""The result row: one pinned Arrow schema, and Parquet that other people's tools open as an image data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from darkroom.storage import StorageError, Store, image_key_of

SCHEMA_VERSION = 5
ROW_GROUP = 100  # rows, where image bytes are inline: a data set viewer reads a whole group to show one row
LONG_ROW_GROUP = 10_000  # and where none are: a tenth of the bytes, and a twelfth of the time that reading takes

_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("id", pa.string()),
    ("key", pa.string()),
    ("task", pa.string()),
    ("status", pa.string()),
    ("error", pa.string()),
    ("error_class", pa.string()),  # "" of a good row; input, numeric, model, storage or other
    ("attempts", pa.int32()),  # jobs that tried to make the row, this one among them
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ("image_uri", pa.string()),
    ("sha256", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("video_uri", pa.string()),  # "" of a picture; of a video, of which the picture is the first frame, its MP4 file
    ("video_sha256", pa.string()),
    ("video_bytes", pa.int64()),
    ("frames", pa.int32()),
    ("fps", pa.int32()),
    ("prompts", pa.list_(pa.string())),
    ("negative_prompt", pa.string()),
    ("seed", pa.int64()),
    ("steps", pa.int32()),
    ("guidance", pa.float64()),
    ("sampler", pa.string()),
    ("start_timestep", pa.float64()),
    ("parameters", pa.string()),
    ("source_uri", pa.string()),
    ("source_sha256", pa.string()),
    ("model", pa.string()),
    ("model_revision", pa.string()),
    ("evaluations", pa.int32()),
    ("seconds", pa.float64()),
    ("worker", pa.string()),
    ("stages", pa.string()),  # JSON: what each stage that touched the row was, in order
    ("controls", pa.string()),  # JSON: what each control network of the row saw, [] without
    ("flags", pa.list_(pa.string())),
    ("scores", pa.string()),  # JSON: {} without a scorer
    ("alignment", pa.float64()),
    ("concealment", pa.float64()),
    ("created_at", pa.timestamp("us", tz="UTC")),
    ("schema_version", pa.int32()),
]
# By version, what a row written before a column was there is read as.
_SINCE: dict[int, dict[str, Any]] = {
    2: {"stages": "[]", "flags": [], "scores": "{}", "alignment": None, "concealment": None},
    3: {"error_class": "", "attempts": 1},
    4: {"controls": "[]"},
    5: {"video_uri": "", "video_sha256": "", "video_bytes": None, "frames": None, "fps": None},
}
_ADDED = {name: value for columns in _SINCE.values() for name, value in columns.items()}
_TEXT = [name for name, kind in _COLUMNS if kind == pa.string()]
_REPEATED = ["task", "status", "sampler", "model", "model_revision", "worker", "negative_prompt", "start_timestep"]
_FEATURES = {"info": {"features": {"image": {"_type": "Image"}}}}

SCHEMA = pa.schema(_COLUMNS, metadata={"schema_version": str(SCHEMA_VERSION), "huggingface": json.dumps(_FEATURES)})


def to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows (one dict per result, every column but `schema_version`) as a table of SCHEMA.

    `image` is {"bytes": bytes or None, "path": str}, or None where there is no picture. Text and lists of text are
    never None; numbers may be. A row that does not fit is our own bug: AssertionError.
    """
    for row in rows:
        _check(row)
    try:
        return pa.Table.from_pylist([{**row, "schema_version": SCHEMA_VERSION} for row in rows], schema=SCHEMA)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise AssertionError(f"a result row has a value of the wrong type: {error}") from error


def to_parquet(table: pa.Table) -> bytes:
    """One Parquet file, zstd, in row groups of at most 100 rows, or of 10,000 where no picture lies inside."""
    if not table.schema.equals(SCHEMA, check_metadata=True):
        raise AssertionError(f"not a table of results: its columns are {table.schema.names}")
    sink = pa.BufferOutputStream()
    # A dictionary only where values repeat: trying one on pictures costs memory and gains nothing.
    inline = pc.struct_field(table["image"], "bytes").null_count < len(table)
    group = ROW_GROUP if inline else LONG_ROW_GROUP
    pq.write_table(table, sink, compression="zstd", row_group_size=group, use_dictionary=_REPEATED)
    return sink.getvalue().to_pybytes()


def from_parquet(data: bytes) -> pa.Table:
    """The table in these bytes; StorageError if they are damaged or of an unknown schema version.

    Rows of earlier versions get what they lack: no stages, no flags, no scores, one attempt, no control, no
    video. Their `schema_version` stays.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"not a readable Parquet file: {error}") from error
    found = (table.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if found.isdecimal() and int(found) < SCHEMA_VERSION:
        table = with_added(table, SCHEMA.names)
    if not table.schema.equals(SCHEMA):
        raise StorageError(f"a results file of schema version {found}: this program reads 1 to {SCHEMA_VERSION}")
    return table.cast(SCHEMA)  # the reader adds field ids of its own to the schema


def with_added(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Those columns of the table; what its version had not yet is added."""
    for name in _ADDED.keys() & set(columns) - set(table.schema.names):
        kind = SCHEMA.field(name).type
        table = table.append_column(name, pa.array([_ADDED[name]] * len(table), kind))
    there = [name for name in columns if name in table.schema.names]
    return table.select(there)


def latents_key(row_key: str) -> str:
    """Where a run keeps the last latents of a row's video until that is there."""
    return f"latents/{row_key}.safetensors"


def maps_of(controls: str) -> list[str]:
    """Keys, in the run, of what the control networks of a row saw. controls: the column's value."""
    return [one["key"] for one in json.loads(controls or "[]")]


def moved_rows(table: pa.Table, store: Store) -> int:
    """How many rows name their picture or video where the run does not lie now. table: with the columns `image_uri`
    and `video_uri`."""
    here = store.uri("images") + "/"
    moved = [
        pc.and_(pc.invert(pc.starts_with(table[name], here)), pc.not_equal(table[name], ""))
        for name in ("image_uri", "video_uri")
    ]
    return pc.sum(pc.or_(*moved)).as_py() or 0


def with_places(table: pa.Table, store: Store) -> pa.Table:
    """The table of SCHEMA with the uris and paths of its pictures and videos where the run lies now."""
    uris = [uri and store.uri(image_key_of(uri)) for uri in table["image_uri"].to_pylist()]
    images = [
        image and image | {"path": uri or image["path"]}
        for image, uri in zip(table["image"].to_pylist(), uris, strict=True)
    ]
    videos = [uri and store.uri(image_key_of(uri)) for uri in table["video_uri"].to_pylist()]
    for name, values in (("image_uri", uris), ("image", images), ("video_uri", videos)):
        place = SCHEMA.get_field_index(name)
        table = table.set_column(place, SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type))
    return table


def _check(row: dict[str, Any]) -> None:
    wanted = set(SCHEMA.names) - {"schema_version"}
    given = set(row) - {"schema_version"}
    name = row.get("id")
    if given != wanted:
        raise AssertionError(f"result row {name!r}: missing {sorted(wanted - given)}, unknown {sorted(given - wanted)}")
    not_text = [column for column in _TEXT if not isinstance(row[column], str)]
    if not_text:
        raise AssertionError(f"result row {name!r}: text is wanted in {not_text}, '' where there is none")
    for column in ("prompts", "flags"):
        if row[column] is None or not all(isinstance(text, str) for text in row[column]):
            raise AssertionError(f"result row {name!r}: {column} must be a list of text, not {row[column]!r}")
    # A data set library opens whatever `path` says as soon as there are no bytes, so "" would break every reader.
    if row["image"] is not None and (set(row["image"]) != {"bytes", "path"} or not row["image"]["path"]):
        raise AssertionError(f"result row {name!r}: image must be None or have bytes (or None) and a path")
    if not isinstance(row["created_at"], datetime) or row["created_at"].tzinfo is None:
        raise AssertionError(f"result row {name!r}: created_at must be a datetime with a time zone")
