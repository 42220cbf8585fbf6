"""A shard of an export: rows and pictures of a run in the form that its readers want. The same bytes for the same rows:
the order is the plan's, and nothing is written down of when and where it was made."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import struct
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from darkroom.export.plan import ExportShard, lost
from darkroom.runs import SCHEMA as RESULTS
from darkroom.runs import Ledger, Shard
from darkroom.runs.results import ROW_GROUP
from darkroom.storage import NotFound, Store, image_key_of

READS = 16  # of pictures at once, in one task
_AT_ONCE = ROW_GROUP  # rows whose pictures are in memory beside the shard
_PNG_HEADER = 33  # bytes: the signature and IHDR

_SCORES = pa.struct(
    [
        ("scorer", pa.string()),
        ("revision", pa.string()),
        ("matrix", pa.list_(pa.list_(pa.float64()))),
        ("chosen_seed", pa.int64()),
        ("candidates", pa.list_(pa.struct([("seed", pa.int64()), ("alignment", pa.float64()),
                                           ("concealment", pa.float64())]))),
        ("error", pa.string()),
    ]
)  # fmt: skip
_STAGE = pa.struct(
    [
        ("stage", pa.int32()),
        ("steps", pa.int32()),
        ("guidance", pa.float64()),
        ("noise_level", pa.int32()),
        ("dtype", pa.string()),
        ("capacity", pa.int32()),
        ("compile", pa.string()),
    ]
)
_CONTROL = pa.struct([("net", pa.string()), ("digest", pa.string()), ("sha256", pa.string()),
                      ("source_sha256", pa.string())])  # fmt: skip
# Of an export alone, or structs where a run's results have JSON; all other columns are of the results' own types.
_OWN = {
    "file_name": pa.string(),
    "text": pa.string(),
    "dhash": pa.string(),
    "scores": _SCORES,
    "stages": pa.list_(_STAGE),
    "controls": pa.list_(_CONTROL),
}
_COLUMNS = ("file_name", "text", "id", "task", "prompts", "negative_prompt", "seed", "steps", "guidance", "sampler",
            "start_timestep", "width", "height", "sha256", "dhash", "alignment", "concealment", "flags", "scores",
            "stages", "controls", "parameters", "source_sha256", "model", "model_revision", "evaluations",
            "created_at", "key")  # fmt: skip
SCHEMA = pa.schema([(name, _OWN[name] if name in _OWN else RESULTS.field(name).type) for name in _COLUMNS])
# What every row has: a reader of JSON takes the types of all rows from the first ones.
FLAT = ("file_name", "text", "id", "task", "seed", "steps", "guidance", "sampler", "width", "height", "sha256", "dhash",
        "parameters", "model", "model_revision", "created_at", "key")  # fmt: skip
_JSON = ("scores", "stages", "controls")
_REPEATED = ["task", "sampler", "model", "model_revision", "negative_prompt"]
SUFFIX = {"webdataset": ".tar", "huggingface": ".parquet", "parquet": ".parquet", "imagefolder": ""}

Row = dict[str, Any]
Rows = Iterator[list[tuple[Row, bytes]]]


@dataclass(frozen=True)
class Receipt:
    """A shard that is written. file: its key, of a folder that of its metadata.jsonl; bytes: of all of it; sha256: of
    the file, which names those of a folder's pictures; dhashes: of its pictures, one behind the other."""

    name: str
    file: str
    split: str
    rows: int
    bytes: int
    sha256: str
    dhashes: str


def file_of(shard: ExportShard, form: str) -> str:
    """The key of what is written last of a shard."""
    if form == "imagefolder":
        return f"{shard.split}/{shard.number:05d}/metadata.jsonl"
    of = f"-of-{shard.of:05d}" if SUFFIX[form] == ".parquet" else ""
    return f"data/{shard.name}{of}{SUFFIX[form]}"


def write_shard(
    shard: ExportShard, form: str, png_text: bool, files: Mapping[str, Shard], run: Store, out: Store
) -> Receipt:
    """Writes one shard. files: of the run, those that the shard's rows lie in, by name. StorageError where a picture is
    gone or is not what its row says."""
    dhashes: list[str] = []
    rows = _rows(shard, png_text, files, run, dhashes)
    file = file_of(shard, form)
    beside = 0
    if form == "imagefolder":
        data, beside = _folder(rows, out, file.rpartition("/")[0])
    else:
        data = _tar(rows) if form == "webdataset" else _parquet(rows, form)
    out.write(file, data)
    digest = hashlib.sha256(data).hexdigest()
    return Receipt(shard.name, file, shard.split, len(dhashes), len(data) + beside, digest, "".join(dhashes))


def dhash(picture: Image.Image) -> str:
    """64 bits, as 16 hexadecimal digits: is each of 8 x 8 grey pixels darker than its right neighbour? Pictures that
    look alike differ in few of them (N. Krawetz, "Kind of Like That", 2013)."""
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS))
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes().hex()


def with_text(png: bytes, keyword: str, text: str) -> bytes:
    """The PNG file with a text beside its picture: an iTXt chunk, not compressed (PNG, third edition, 11.3.3.4)."""
    body = b"iTXt" + keyword.encode("latin-1") + bytes(5) + text.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:_PNG_HEADER] + chunk + png[_PNG_HEADER:]


def _rows(shard: ExportShard, png_text: bool, files: Mapping[str, Shard], run: Store, dhashes: list[str]) -> Rows:
    """Rows as the export has them, with their pictures, a few at a time."""
    ledger = Ledger(run)
    tables = (table for piece in shard.pieces for table in ledger.rows(files[piece.file], piece.places))
    found = (row for table in tables for batch in table.to_batches(max_chunksize=_AT_ONCE) for row in batch.to_pylist())
    count = itertools.count()
    with ThreadPoolExecutor(READS, thread_name_prefix="pictures") as pool:
        while rows := list(itertools.islice(found, _AT_ONCE)):
            pictures = pool.map(lambda row: _picture(row, run), rows)
            batch = [
                _exported(row, data, f"{shard.name}-{next(count):06d}.png", png_text)
                for row, data in zip(rows, pictures, strict=True)
            ]
            dhashes += [row["dhash"] for row, _ in batch]
            yield batch


def _picture(row: Row, run: Store) -> bytes:
    try:
        data = row["image"]["bytes"] or run.read(image_key_of(row["image_uri"]))
    except NotFound:
        raise lost(f"the picture of the row {row['id']!r} is gone", run) from None
    if row["sha256"] and hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise lost(f"the picture of the row {row['id']!r} is damaged", run)
    return data


def _exported(row: Row, data: bytes, file_name: str, png_text: bool) -> tuple[Row, bytes]:
    """A row of SCHEMA, and its picture's file: what is absent is None, and JSON is what it stands for."""
    row = {name: None if value == "" else value for name, value in row.items()}
    row |= {name: json.loads(row[name]) or None for name in _JSON if row[name]}
    with Image.open(io.BytesIO(data)) as picture:
        row["dhash"] = dhash(picture)
    if png_text:
        told = {name: row[name] for name in ("id", "model", "model_revision", "sha256")}
        told["row"] = json.loads(row["parameters"])
        data = with_text(data, "darkroom", json.dumps(told, sort_keys=True, ensure_ascii=False))
    row["sha256"] = hashlib.sha256(data).hexdigest()
    row |= {"file_name": file_name, "text": next(iter(row["prompts"] or ()), None) or None}
    return {name: row[name] for name in SCHEMA.names}, data


def schema_of(form: str) -> pa.Schema:
    """Of a Parquet file: with the picture, in the place and the type that its readers look for."""
    if form == "parquet":
        return SCHEMA.insert(0, pa.field("image", pa.binary()))
    features = {"info": {"features": {"image": {"_type": "Image"}}}}
    schema = SCHEMA.insert(0, RESULTS.field("image"))
    return schema.with_metadata({"huggingface": json.dumps(features)})


def _parquet(rows: Rows, form: str) -> bytes:
    schema, sink = schema_of(form), io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=_REPEATED) as writer:
        for batch in rows:
            inline = [
                row | {"image": data if form == "parquet" else {"bytes": data, "path": row["file_name"]}}
                for row, data in batch
            ]
            writer.write_table(pa.Table.from_pylist(inline, schema=schema))
    return sink.getvalue()


def _tar(rows: Rows) -> bytes:
    """NAME.png, .txt and .json of each row, one after another, with no time and nobody's name."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for batch in rows:
            for (row, data), line in zip(batch, to_json([row for row, _ in batch]), strict=True):
                parts = {".png": data, ".txt": (row["text"] or "").encode(), ".json": line}
                for suffix, content in parts.items():
                    member = tarfile.TarInfo(row["file_name"].removesuffix(".png") + suffix)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def _folder(rows: Rows, out: Store, folder: str) -> tuple[bytes, int]:
    """Writes the pictures; metadata.jsonl, which is for the caller to write, and the pictures' bytes."""
    lines, size = [], 0
    with ThreadPoolExecutor(READS, thread_name_prefix="writer") as pool:
        for batch in rows:
            list(pool.map(lambda pair: out.write(f"{folder}/{pair[0]['file_name']}", pair[1]), batch))
            size += sum(len(data) for _, data in batch)
            lines += to_json([row | {"text": row["text"] or ""} for row, _ in batch], FLAT)
    return b"".join(line + b"\n" for line in lines), size


def to_json(rows: Sequence[Row], columns: Sequence[str] = tuple(SCHEMA.names)) -> list[bytes]:
    """Rows of SCHEMA, each with the same keys, parts of structs too; dates as ISO 8601 has them."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA).select(list(columns))
    return [json.dumps(row, ensure_ascii=False, default=_dated).encode() for row in table.to_pylist()]


def _dated(value: Any) -> str:
    assert isinstance(value, datetime), f"{type(value).__name__} in a row of an export"
    return value.isoformat()
