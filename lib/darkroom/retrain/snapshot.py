"""The data of one tick: what lies under the source, as a data set that never changes, named by its content.

OUT/data/parts/DIGEST/       a part of the source as an ingested data set, and part.json: its files, rows, what was bad
OUT/data/snapshots/DIGEST/   several parts as one data set; of one part alone, the part is the snapshot
OUT/data/seen.json           the source's files as they were last: size, version in their store, SHA-256

A part is a folder of four IDX files anywhere under the source, or the whole source for the other kinds. A part whose
files have not changed is never made again, and a file whose size and version are those of last time is not read.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from darkroom.retrain.schema import Data
from darkroom.storage import StorageError, Store, open_store, read_uri
from darkroom.training.data import RECORD, load_images, read_record, write_dataset
from darkroom.training.ingest import INGESTERS, Splits
from darkroom.training.ingest_captions import ingest_captions
from darkroom.training.ingest_folder import read_folder
from darkroom.training.ingest_mnist import FILES, MNIST_SHA256, read_idx_folder

FORMAT = 1  # of how parts are read: another reading makes other parts of the same files
PART, SEEN = "part.json", "data/seen.json"
LISTED_BAD, TOLD_BAD = 10_000, 10
_READ_AT_ONCE = 16
Facts = Mapping[str, tuple[int, str]]  # key -> size and version in the store


@dataclass(frozen=True)
class _Found:
    """A part as it lies under the source. files: key -> SHA-256; look: something else as soon as a file is another."""

    source: str | None
    files: dict[str, str]
    look: Callable[[], Any]
    seen: Any

    def check(self) -> None:
        """StorageError where a file changed since it was hashed: what was read need not be what the hashes name."""
        if self.look() != self.seen:
            raise StorageError(f"{self.source} changed while it was read; run the tick again")


@dataclass(frozen=True)
class Part:
    """files: of the source, key -> SHA-256; rows: good ones by split; bad: how many records are in quarantine."""

    source: str
    digest: str
    uri: str
    rows: dict[str, int]
    bad: int
    reused: bool


@dataclass(frozen=True)
class Snapshot:
    """uri: the data set; train, test: digests of its splits; bad of all records are in quarantine, see the parts."""

    id: str
    uri: str
    rows: dict[str, int]
    digests: dict[str, str]
    bad: int
    parts: list[Part]

    def record(self) -> dict[str, Any]:
        """As a tick's record has it."""
        return asdict(self)


def take_snapshot(data: Data, out: str, say: Callable[[str], None]) -> Snapshot:
    """Reads what is new under the source. `out`: the pipeline's folder.

    Raises ValueError where there is no data, or more of it is bad than the file allows; StorageError.
    """
    parts = [_part(data, found, out, say) for found in _find(data, open_store(out))]
    _check_limit(data, parts, out)
    good = [part for part in parts if part.rows]
    digest = _digest([part.digest for part in good])
    if len(good) == 1:
        uri = good[0].uri
    else:
        uri = open_store(out).uri(f"data/snapshots/{digest}")
        if not open_store(uri).exists(RECORD):
            _join(data, good, uri)
    record = read_record(uri, "captions" if data.kind == "captions" else "labels")["splits"]
    rows = {split: about["rows"] for split, about in record.items()}
    digests = {split: about["digest"] for split, about in record.items()}
    return Snapshot(digest, uri, rows, digests, sum(part.bad for part in parts), parts)


def _find(data: Data, out: Store) -> list[_Found]:
    """Every part of the source; a data set known by name has no files here."""
    source = data.source
    if source is None:
        return [_Found(None, MNIST_SHA256 if data.kind == "mnist" else {}, lambda: None, None)]
    if data.kind == "cifar10" and source.endswith((".tar.gz", ".tgz", ".tar")):
        digest = _sha256(read_uri(source))
        return [_Found(source, {posixpath.basename(source): digest}, lambda: _sha256(read_uri(source)), digest)]
    store = open_store(source)
    listing = store.listing()
    folders = {posixpath.dirname(key) for key in listing if posixpath.basename(key).startswith(FILES[0])}
    if data.kind != "idx":
        folders = {""}
    parts = {folder: of for folder in sorted(folders) if (of := _of_part(data.kind, folder, listing))}
    if not parts:
        wanted = f"a folder with {FILES[0]}-idx3-ubyte" if data.kind == "idx" else "a file"
        raise ValueError(f"no data under {source}: wanted {wanted}")
    digests = _digests(store, {key: fact for of in parts.values() for key, fact in of.items()}, out)
    return [_found(data.kind, store, folder, of, digests) for folder, of in parts.items()]


def _found(kind: str, store: Store, folder: str, facts: Facts, digests: Mapping[str, str]) -> _Found:
    def look() -> Facts:
        return _of_part(kind, folder, store.listing(f"{folder}/" if folder else ""))

    files = {posixpath.relpath(key, folder or "."): digests[key] for key in facts}
    return _Found(store.uri(folder) if folder else store.root, files, look, facts)


def _digests(store: Store, files: Facts, out: Store) -> dict[str, str]:
    """The SHA-256 of each file."""
    before = json.loads(out.read(SEEN)) if out.exists(SEEN) else {}
    seen = {key: before.get(store.uri(key), []) for key in files}
    known = {key: seen[key][2] for key, fact in files.items() if seen[key][:2] == [*fact]}
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="snapshot") as pool:
        new = [key for key in files if key not in known]
        digests = known | dict(pool.map(lambda key: (key, _sha256(store.read(key))), new))
    if new:
        now = {store.uri(key): [*fact, digests[key]] for key, fact in files.items()}
        out.write(SEEN, json.dumps(now, ensure_ascii=False).encode())
    return digests


def _of_part(kind: str, folder: str, listing: Facts) -> Facts:
    """What a listing says of a part's files, in the order of their keys. Hidden files are nobody's."""
    keys = [key for key in sorted(listing) if not any(part.startswith(".") for part in key.split("/"))]
    if kind == "idx":
        keys = [key for key in keys if posixpath.dirname(key) == folder and posixpath.basename(key).startswith(FILES)]
    return {key: listing[key] for key in keys}


def _part(data: Data, found: _Found, out: str, say: Callable[[str], None]) -> Part:
    digest = _digest([data.kind, str(data.classes), *(f"{key} {found.files[key]}" for key in sorted(found.files))])
    uri = open_store(out).uri(f"data/parts/{digest}")
    store = open_store(uri)
    # dataset.json is written last, so a part that has it is whole; of one without good rows part.json is all there is.
    reused = store.exists(PART) and (not json.loads(store.read(PART))["rows"] or store.exists(RECORD))
    if not reused:
        say(f"reading {found.source or data.kind} ...")
        _ingest(data, found, store)
    about = json.loads(store.read(PART))
    return Part(found.source or data.kind, digest, uri, about["rows"], about["bad"], reused)


def _ingest(data: Data, found: _Found, store: Store) -> None:
    if data.kind == "captions":
        _ingest_captions(found, store)
        return
    bad: list[str] = []
    try:
        splits, about = _read(data, found.source, bad)
    except ValueError as error:
        found.check()  # half of a file that was being replaced is no bad data
        if data.kind != "idx":  # the whole source: there is nothing else to train on
            raise
        splits, about = {}, {}
        bad = [f"the whole part: {error}"]
    found.check()
    rows = {name: len(labels) for name, (_, labels) in splits.items()}
    record = {"source": found.source, "files": found.files, "rows": rows, "bad": len(bad),
              "quarantine": bad[:LISTED_BAD]}  # fmt: skip
    store.write(PART, json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n")
    if splits:
        write_dataset(store.root, splits, about)


def _ingest_captions(found: _Found, store: Store) -> None:
    """Pictures with captions are few, and none of them may be bad."""
    about = {"source": found.source, "files": found.files, "bad": 0, "quarantine": []}
    record = ingest_captions(found.source, store.root)
    found.check()
    rows = {name: split["rows"] for name, split in record["splits"].items()}
    store.write(PART, json.dumps({**about, "rows": rows}, indent=1, ensure_ascii=False).encode() + b"\n")


def _read(data: Data, source: str | None, bad: list[str]) -> tuple[Splits, dict[str, Any]]:
    """The good records, and what dataset.json says besides; what is wrong with the others goes into `bad`."""
    if data.kind == "folder":
        return read_folder(source, bad)
    if data.kind != "idx":
        return INGESTERS[data.kind](source)
    assert source is not None, "the pipeline file was checked"
    splits = {}
    for split, (images, labels) in read_idx_folder(source).items():
        flat = images.reshape(len(images), -1)
        blank, beyond = flat.min(axis=1) == flat.max(axis=1), labels >= data.classes
        bad += [f"{split} record {at}: the label is {labels[at]}" for at in np.flatnonzero(beyond)]
        bad += [f"{split} record {at}: nothing is on the picture" for at in np.flatnonzero(blank & ~beyond)]
        splits[split] = images[~(blank | beyond)], labels[~(blank | beyond)]
    if not all(len(labels) for _, labels in splits.values()):
        raise ValueError("no record of a split is good")
    return splits, {"name": "idx", "source": source, "classes": [str(label) for label in range(data.classes)]}


def _check_limit(data: Data, parts: list[Part], out: str) -> None:
    """A part that could not be read at all counts as many records as the largest that could."""
    largest = max((sum(part.rows.values()) for part in parts), default=0)
    bad = sum(part.bad if part.rows else max(1, largest) for part in parts)
    total = bad + sum(sum(part.rows.values()) for part in parts)
    if bad <= data.bad_records * total and largest:
        return
    told = [text for part in parts if part.bad for text in _quarantined(part)[:TOLD_BAD]][:TOLD_BAD]
    raise ValueError(
        f"{bad:,} of {total:,} records under {data.source} are bad, more than the {data.bad_records:.2%} that the "
        "pipeline allows; all are listed in the part.json of their parts, the first are:\n  " + "\n  ".join(told)
    )


def _quarantined(part: Part) -> list[str]:
    return [f"{part.source}: {text}" for text in json.loads(open_store(part.uri).read(PART))["quarantine"]]


def _join(data: Data, parts: list[Part], uri: str) -> None:
    """One data set of several, in the order of their sources. ValueError where their pictures differ in form."""
    forms = {part.source: tuple(read_record(part.uri)["image"].values()) for part in parts}
    if len(set(forms.values())) > 1:
        told = ", ".join(f"{source} {' x '.join(map(str, form))}" for source, form in forms.items())
        raise ValueError(f"the parts of {data.source} hold pictures of different forms: {told}")
    splits = {}
    for split in parts[0].rows:
        loaded = [load_images(part.uri, split) for part in parts]
        splits[split] = np.concatenate([o.images for o in loaded]), np.concatenate([o.labels for o in loaded])
    name = posixpath.basename((data.source or data.kind).rstrip("/"))
    write_dataset(uri, splits, {"name": name, "source": data.source, "classes": read_record(parts[0].uri)["classes"]})


def _digest(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *texts]).encode()).hexdigest()[:16]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
