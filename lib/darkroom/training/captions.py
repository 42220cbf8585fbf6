"""Pictures with captions as darkroom keeps them: Parquet files beside a `dataset.json`, which is written last.

    train-00000-1f3a99c0.parquet, ...    image (struct of the file's own bytes and its name), text
    dataset.json                         name, source, kind "captions", and of the split train: rows, files, digest

Pictures keep their size, their format and their bytes. `datasets.load_dataset("parquet", ...)` opens them as pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from darkroom.storage import NotFound, StoredFile, open_store
from darkroom.training.data import FORMAT, RECORD, delete_stale, read_record

FILE_ROWS, FILE_BYTES = 1000, 2**28  # that a file has about at most: it is made in memory
ROW_GROUP = 20  # pictures may be of many megabytes
SPLIT = "train"

_FEATURES = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}
SCHEMA = pa.schema(
    [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("text", pa.string())],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


@dataclass(frozen=True, eq=False)
class Captioned:
    """A picture, as the bytes of its file, with what it shows in words."""

    name: str
    data: bytes
    text: str


class Digest:
    """SHA-256 over names, bytes and captions, in their order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, picture: Captioned) -> None:
        whole = [picture.name, hashlib.sha256(picture.data).hexdigest(), picture.text]
        self._digest.update(json.dumps(whole).encode())

    @property
    def hex(self) -> str:
        return self._digest.hexdigest()


def write_captions(
    uri: str, pictures: Iterable[Captioned], rows: int, digest: str, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes so many pictures, of that digest, under `uri`; returns what dataset.json holds. about: name and source.

    ValueError where the pictures are not those of the digest.
    """
    store, files, found = open_store(uri), [], Digest()
    for part in _parts(pictures):
        for picture in part:
            found.add(picture)
        files.append(f"{SPLIT}-{len(files):05d}-{digest[:8]}.parquet")
        store.write(files[-1], _to_parquet(part))
    if found.hex != digest:
        raise ValueError(f"{about['source']} changed while it was read; ingest it again")
    record = {"format": FORMAT, "kind": "captions", **about}
    record["splits"] = {SPLIT: {"rows": rows, "files": files, "digest": digest}}
    store.write(RECORD, json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n")
    delete_stale(store, record["splits"])
    return record


def read_captions(uri: str) -> Iterator[Captioned]:
    """Every picture of an ingested data set, in the order in which it was ingested.

    ValueError for data that is damaged or not what was ingested, the latter after the last; StorageError.
    """
    store, split, found = open_store(uri), read_record(uri, "captions")["splits"][SPLIT], Digest()
    for name in split["files"]:
        where = store.uri(name)
        try:
            with pq.ParquetFile(pa.PythonFile(StoredFile(store, name))) as file:
                if not file.schema_arrow.equals(SCHEMA):
                    raise ValueError(f"{where}: its columns are {file.schema_arrow.names}, wanted image and text")
                for batch in file.iter_batches(ROW_GROUP):
                    for row in batch.to_pylist():
                        picture = Captioned(row["image"]["path"], row["image"]["bytes"], row["text"])
                        found.add(picture)
                        yield picture
        except NotFound:
            raise ValueError(f"{where} is missing, though {RECORD} names it; ingest the data again") from None
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{where} is cut short or damaged ({error}); ingest the data again") from None
    if found.hex != split["digest"]:
        raise ValueError(f"{uri}: the pictures or captions are not those that were ingested; ingest them again")


def _parts(pictures: Iterable[Captioned]) -> Iterator[list[Captioned]]:
    part: list[Captioned] = []
    size = 0
    for picture in pictures:
        part.append(picture)
        size += len(picture.data)
        if len(part) == FILE_ROWS or size >= FILE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _to_parquet(pictures: list[Captioned]) -> bytes:
    images = [{"bytes": picture.data, "path": picture.name} for picture in pictures]
    texts = [picture.text for picture in pictures]
    table = pa.table([pa.array(images, SCHEMA.field("image").type), pa.array(texts, pa.string())], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", row_group_size=ROW_GROUP)  # the pictures are packed already
    return sink.getvalue().to_pybytes()
