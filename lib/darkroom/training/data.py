"""Image data sets as darkroom keeps them: a folder or prefix of Parquet files, and `dataset.json`, written last.

    train-00000-1f3a99c0.parquet, ...    image (struct of PNG bytes and a name), label (int32)
    test-00000-90bd0c77.parquet, ...
    dataset.json                         name, source, classes, picture size, and per split rows, files, rows of a file
                                     (the last has what is left), digest

Any Parquet reader opens them, `datasets.load_dataset("parquet", ...)` as pictures. A file's name ends with its split's
digest, so that data that is ingested anew lies beside the old until dataset.json names it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from darkroom.storage import NotFound, Store, StoredFile, decode, open_store

SAMPLE = Path(__file__).parent / "sample"  # of MNIST: 200 training and 100 test digits of each kind
RECORD = "dataset.json"
FORMAT = 1
FILE_ROWS, FILE_BYTES = 100_000, 2**30  # that a file has at most; bytes as unpacked: it is made in memory
DECODERS = min(8, os.cpu_count() or 1)
ROW_GROUP = 100  # as in a run's results: a viewer reads a whole group to show one picture

Kind = Literal["labels", "captions"]
Decoded = tuple[str, np.ndarray, int]  # where, image, label
_MADE_BY = {
    "labels": "`darkroom ingest folder` and its like make them",
    "captions": "`darkroom ingest captions FOLDER --out URI` makes them, and the recipe lora learns from them",
}

_FEATURES = {"image": {"_type": "Image"}, "label": {"dtype": "int32", "_type": "Value"}}
SCHEMA = pa.schema(
    [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int32())],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


@dataclass(frozen=True, eq=False)
class Images:
    """images uint8 [N, H, W, C], labels int64 [N] in 0 .. classes-1; digest: `digest_of` the two."""

    images: np.ndarray
    labels: np.ndarray
    digest: str


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set in memory; about: what its dataset.json holds."""

    uri: str
    about: dict[str, Any]
    train: Images
    test: Images

    @property
    def classes(self) -> list[str]:
        return self.about["classes"]


def digest_of(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of what the arrays hold, whatever file they lay in: shape, pixels, labels as little-endian int64."""
    digest = hashlib.sha256(json.dumps(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def sample_uri() -> str:
    """Where the digits lie that come with the package; `load_images(sample_uri(), "test")` reads them."""
    return str(SAMPLE)


def write_dataset(uri: str, splits: Mapping[str, tuple[np.ndarray, np.ndarray]], about: Mapping[str, Any]) -> dict:
    """Writes splits (images uint8 [N, H, W, C], labels [N]) under `uri`; returns what dataset.json holds.

    about: name, source, classes (their names, in the order of the labels). A data set that lies there is replaced: it
    is read until dataset.json is written, the new one from then on, and the old one's files go last.
    """
    store = open_store(uri)
    shapes = {images.shape[1:] for images, _ in splits.values()}
    assert len(shapes) == 1, f"splits of one size are wanted, got {shapes}"
    height, width, channels = shapes.pop()
    record = {
        "format": FORMAT,
        **about,
        "image": {"height": height, "width": width, "channels": channels},
        "splits": {name: _write_split(store, name, *arrays) for name, arrays in splits.items()},
    }
    store.write(RECORD, json.dumps(record, indent=1).encode() + b"\n")
    delete_stale(store, record["splits"])
    return record


def read_record(uri: str, kind: Kind = "labels") -> dict[str, Any]:
    """What dataset.json holds. ValueError if there is none, none that this program can read, or of the other kind."""
    store = open_store(uri)
    try:
        record = json.loads(store.read(RECORD))
    except NotFound:
        raise ValueError(
            f"no data set in {uri}: it has no {RECORD}; `darkroom ingest ... --out {uri}` makes one"
        ) from None
    except ValueError as error:
        raise ValueError(f"{store.uri(RECORD)} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{store.uri(RECORD)}: not a data set of format {FORMAT}; ingest the data again")
    if (found := record.get("kind", "labels")) != kind:
        raise ValueError(f"{uri} holds pictures with {found}, wanted pictures with {kind}: {_MADE_BY[kind]}")
    return record


def load_images(uri: str, split: str) -> Images:
    """One split of an ingested data set, whole, in the order it was ingested.

    Raises ValueError, with the file and the record named, for data that is cut short, of mixed sizes, labelled out of
    range, or not what was ingested; StorageError where storage fails.
    """
    record, store = read_record(uri), open_store(uri)
    if split not in record["splits"]:
        raise ValueError(f"{uri} has no split {split!r}; it has {', '.join(record['splits'])}")
    wanted = record["splits"][split]
    shape = tuple(record["image"][axis] for axis in ("height", "width", "channels"))
    images = np.empty((wanted["rows"], *shape), np.uint8)
    labels = np.empty(wanted["rows"], np.int64)
    count = 0
    for group in _decoded(store, wanted["files"], shape, len(record["classes"])):
        for where, image, label in group:
            if count == len(images):
                raise ValueError(f"{where}: {RECORD} promises {wanted['rows']} records of {split!r}, here is one more")
            images[count], labels[count] = image, label
            count += 1
    if count != len(images):
        raise ValueError(f"{uri}: {RECORD} promises {wanted['rows']} records of {split!r}, the files hold {count}")
    digest = digest_of(images, labels)
    if digest != wanted["digest"]:
        raise ValueError(
            f"{uri}: the pictures or labels of {split!r} are not those that were ingested; ingest them again"
        )
    return Images(images, labels, digest)


def load_data_set(uri: str) -> DataSet:
    """Both splits of an ingested data set, whole. Raises what `load_images` does."""
    about = read_record(uri)
    return DataSet(uri, about, load_images(uri, "train"), load_images(uri, "test"))


def read_groups(uri: str, file: str, groups: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(images uint8 [n, H, W, C], labels int64 [n]) of some row groups of a file; only their bytes are read.

    Raises ValueError and StorageError as `load_images` does.
    """
    record, store = read_record(uri), open_store(uri)
    shape = tuple(record["image"][axis] for axis in ("height", "width", "channels"))
    with _readable(store, file, lambda: pa.PythonFile(StoredFile(store, file))) as parquet:
        for group in groups:
            table = parquet.read_row_group(group)
            where = f"{store.uri(file)}, row group {group}, record "
            pictures = pc.struct_field(table["image"], "bytes").to_pylist()
            images = [_checked_picture(data, f"{where}{at}", shape) for at, data in enumerate(pictures)]
            labels = table["label"].to_pylist()
            kinds = [_checked_label(label, f"{where}{at}", len(record["classes"])) for at, label in enumerate(labels)]
            yield np.stack(images), np.array(kinds, np.int64)


def _write_split(store: Store, split: str, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    assert images.dtype == np.uint8 and len(images) == len(labels)
    digest, files = digest_of(images, labels), []
    groups = FILE_BYTES // (ROW_GROUP * images[:1].nbytes) if len(images) else 1
    file_rows = min(FILE_ROWS, ROW_GROUP * max(1, groups))
    for start in range(0, len(images), file_rows):
        part = slice(start, start + file_rows)
        files.append(f"{split}-{len(files):05d}-{digest[:8]}.parquet")
        store.write(files[-1], _to_parquet(images[part], labels[part], split, start))
    return {"rows": len(images), "files": files, "file_rows": file_rows, "digest": digest}


def delete_stale(store: Store, splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Deletes the files of former data sets, and of ingests that died. What else lies there is not ours."""
    for name, split in splits.items():
        written = re.compile(rf"{re.escape(name)}-\d{{5}}(-[0-9a-f]{{8}})?\.parquet")
        stale = [key for key in store.list(f"{name}-") if written.fullmatch(key) and key not in split["files"]]
        store.delete(*stale)


def _to_parquet(images: np.ndarray, labels: np.ndarray, split: str, start: int) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd", compression_level=12, use_dictionary=["label"]) as file:
        for first in range(0, len(images), ROW_GROUP):  # a group at a time, to hold no more of them twice
            group = slice(first, first + ROW_GROUP)
            pictures = [
                {"bytes": _png(image), "path": f"{split}-{start + i:06d}.png"}
                for i, image in enumerate(images[group], first)
            ]
            columns = [pa.array(pictures, SCHEMA.field("image").type), pa.array(labels[group], pa.int32())]
            file.write_table(pa.table(columns, schema=SCHEMA), ROW_GROUP)
    return sink.getvalue().to_pybytes()


def _png(image: np.ndarray) -> bytes:
    """PNG, not deflated: Parquet's zstd packs a hundred small pictures together better than each alone (40% less)."""
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _decoded(store: Store, files: Sequence[str], shape: tuple[int, int, int], classes: int) -> Iterator[list[Decoded]]:
    """The files' records, a row group at a time and in order, decoded in threads."""

    def decode_group(group: list[tuple[str, bytes | None, int | None]]) -> list[Decoded]:
        return [
            (where, _checked_picture(data, where, shape), _checked_label(label, where, classes))
            for where, data, label in group
        ]

    ahead: deque[Future[list[Decoded]]] = deque()
    with ThreadPoolExecutor(DECODERS) as pool:
        for group in (group for name in files for group in _groups(store, name)):
            ahead.append(pool.submit(decode_group, group))
            if len(ahead) > 2 * DECODERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _groups(store: Store, name: str) -> Iterator[list[tuple[str, bytes | None, int | None]]]:
    """(where, image bytes, label) of the records of a file, a row group at a time."""
    uri, count = store.uri(name), 0
    with _readable(store, name, lambda: pa.BufferReader(store.read(name))) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            pictures = pc.struct_field(table["image"], "bytes").to_pylist()
            labels = table["label"].to_pylist()
            yield [
                (f"{uri}, record {count + at}", data, label)
                for at, (data, label) in enumerate(zip(pictures, labels, strict=True))
            ]
            count += len(labels)


@contextmanager
def _readable(store: Store, name: str, opened: Callable[[], pa.NativeFile]) -> Iterator[pq.ParquetFile]:
    """A file of the data set. What is wrong with it, also while it is read, is a ValueError that names it."""
    uri = store.uri(name)
    try:
        with pq.ParquetFile(opened()) as file:
            if not file.schema_arrow.equals(SCHEMA):
                raise ValueError(
                    f"{uri}: its columns are {file.schema_arrow.names}, wanted image (bytes, path) and label (int32)"
                )
            yield file
    except NotFound:
        raise ValueError(f"{uri} is missing, though {RECORD} names it; ingest the data again") from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{uri} is cut short or damaged ({error}); ingest the data again") from None


def _checked_picture(data: bytes | None, where: str, shape: tuple[int, int, int]) -> np.ndarray:
    image = decode(data or b"", where, "L" if shape[2] == 1 else "RGB")
    if image.shape != shape:
        given, wanted = ("{} x {}".format(*size) for size in (image.shape, shape))
        raise ValueError(f"{where}: the picture is {given} pixels, those of this data set are {wanted}")
    return image


def _checked_label(label: int | None, where: str, classes: int) -> int:
    if label is None or not 0 <= label < classes:
        raise ValueError(f"{where}: the label is {label}, wanted 0 to {classes - 1}")
    return label
