"""Folders of classes, and runs that somebody or something touched."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

from hostile.case import ENVIRONMENT, ROW, WRONG, Case, Content, link, pipe
from hostile.rows import NOISE
from runs import png

SMALL = png(8)
DATA_SET: dict[str, Content] = {
    f"data/{split}/{kind}/{n}.png": SMALL for split in ("train", "test") for kind in "ab" for n in range(2)
}


def of_classes(says: str, **more: Content) -> Case:
    """A whole data set, and what stands beside it."""
    files = DATA_SET | {f"data/{name}": content for name, content in more.items()}
    return _ingest(says, files)


def _ingest(says: str, files: dict[str, Content], kind: str = "folder", source: str = "data") -> Case:
    return Case(says, files, "ingest", given=kind, options={"source": source, "out": "out"})


def _batch(value: object) -> bytes:
    """CIFAR-10's archive, with this in its first file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        data = value if isinstance(value, bytes) else pickle.dumps(value)
        entry = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch evil",)


FOLDERS: dict[str, Case] = {
    "not there": _ingest("no picture", {}, source="nowhere"),
    "empty": _ingest("no picture", {"data": Path.mkdir}),
    "no classes": _ingest("a.png: wanted directly in CLASS/", {"data/a.png": SMALL}),
    "train and val": _ingest(
        "wanted train/ and test/, by these names",
        {f"data/{split}/{kind}/a.png": SMALL for split in ("train", "val") for kind in "ab"},
    ),
    "train alone": _ingest("the class has no picture", {"data/train/a/0.png": SMALL}),
    "one picture": _ingest("add some", {"data/a/1.png": SMALL}),
    "another size": of_classes("10 x 10 pixels (height x width)", **{"train/a/9.png": png(10)}),
    "a picture that is cut": of_classes("train/a/9.png: ", **{"train/a/9.png": SMALL[:40]}),
    "a text": of_classes("train/a/9.png: not an image of a known format", **{"train/a/9.png": "x"}),
    "another kind": of_classes("train/a/9.bmp: wanted a name that ends in .png", **{"train/a/9.bmp": "x"}),
    "deeper": of_classes("wanted directly in train/CLASS/ or test/CLASS/", **{"train/a/b/9.png": SMALL}),
    "a pipe": of_classes("it is no file", **{"train/a/9.png": pipe}),
    "a link to a device": of_classes("it is no file", **{"train/a/9.png": link("/dev/zero")}),
    "a link to nothing": of_classes("9.png: nothing is there", **{"train/a/9.png": link("b.png")}),
    "100 wrong files": of_classes("and 80 more", **{f"train/a/x{n}.png": "x" for n in range(100)}),
    "a file": _ingest("data", {"data": SMALL}),
    "another kind of data": _ingest("folders", DATA_SET, kind="folders"),
    "IDX of noise": _ingest("", {f"data/{n}": NOISE for n in ("train-images-idx3-ubyte",)}, kind="idx"),
    "CIFAR-10 with code": _ingest("posix.system", {"c.tar.gz": _batch(_Evil())}, "cifar10", "c.tar.gz"),
    "CIFAR-10 of noise": _ingest("c.tar.gz", {"c.tar.gz": NOISE}, "cifar10", "c.tar.gz"),
    "CIFAR-10 of noise within": _ingest("data_batch_1", {"c.tar.gz": _batch(NOISE)}, "cifar10", "c.tar.gz"),
}


def a_run(change: Callable[[Path], None]) -> Content:
    """A run of two good rows, of which something was changed."""

    def put(path: Path) -> None:
        import hashlib

        from darkroom.runs import to_table
        from darkroom.storage import image_key, open_store
        from runs import commit, result

        store = open_store(str(path))
        lines = [{"id": name, "key": name * 32, "row": {"task": "text_to_image", "prompt": "a"}} for name in "ab"]
        rows = []
        for line in lines:
            key = image_key(line["id"], line["key"])
            store.write(key, SMALL)
            where = {"image_uri": store.uri(key), "image": {"bytes": None, "path": key}}
            rows.append(result(line, sha256=hashlib.sha256(SMALL).hexdigest(), **where))
        commit(store, "u", to_table(rows))
        store.write("manifest/plan/000000.jsonl", "\n".join(map(json.dumps, lines)).encode())
        record = {"plan": "plan", "manifest": {"uri": "a.jsonl", "sha256": "", "rows": 2}, "options": {"limit": None}}
        model = {"name": "if-xs", "revision": "0", "address": "if-xs"}
        store.write("run.json", json.dumps(record | {"model": model}).encode())
        change(path)

    return put


def wrote(name: str, data: bytes | str) -> Callable[[Path], None]:
    """The file, or the first that the pattern fits, holds something else."""

    def change(path: Path) -> None:
        found = next(path.glob(name), path / name)
        found.write_bytes(data.encode() if isinstance(data, str) else data)

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda path: next(path.glob(name)).unlink()


def _cut(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        found = next(path.glob(name))
        found.write_bytes(found.read_bytes()[:-9])

    return change


def _linked(path: Path) -> None:
    found = next(path.glob("images/*/*.png"))
    found.unlink()
    found.symlink_to("/etc/passwd")


def _climbing(path: Path) -> None:
    found = sorted(path.glob("commits/*.record.json"))[-1]
    record = json.loads(found.read_bytes())
    record["shards"][0]["name"] = "../../a.parquet"
    found.write_text(json.dumps(record))


RECORD, SHARD, PICTURE = "commits/*-00000001.record.json", "metadata/*.parquet", "images/*/*.png"

RUNS: dict[str, tuple[Callable[[Path], None], str, int, str]] = {
    "record of nothing": (wrote("run.json", ""), "audit", WRONG, "run.json is damaged"),
    "record {}": (wrote("run.json", "{}"), "audit", WRONG, "run.json is damaged"),
    "record [], report": (wrote("run.json", "[]"), "report", WRONG, "run.json is damaged"),
    "record of a word": (wrote("run.json", '"run"'), "compact", WRONG, "run.json is damaged"),
    "record of noise": (wrote("run.json", NOISE), "clean", WRONG, "run.json is damaged"),
    "record of another plan": (wrote("run.json", '{"plan": "x"}'), "audit", WRONG, "run.json is damaged"),
    "no record": (without("run.json"), "audit", WRONG, "there is no run in"),
    "no record, report": (without("run.json"), "report", WRONG, "there is no run in"),
    "a commit of nothing": (wrote(RECORD, ""), "audit", ENVIRONMENT, "is not a commit record"),
    "a commit {}": (wrote(RECORD, "{}"), "audit", ENVIRONMENT, "is not a commit record"),
    "a commit of noise": (wrote(RECORD, NOISE), "report", ENVIRONMENT, "is not a commit record"),
    "a commit of later": (wrote(RECORD, '{"version": 99}'), "audit", ENVIRONMENT, "is of ledger version 99"),
    "a commit that climbs": (_climbing, "audit", ENVIRONMENT, "is no shard's name"),
    "a commit that climbs, clean": (_climbing, "clean", ENVIRONMENT, "is no shard's name"),
    "another's file in commits/": (wrote("commits/.DS_Store.json", "{}"), "audit", 0, ".DS_Store.json is no file of t"),
    "another's file in metadata/": (wrote("metadata/notes.txt", "x"), "audit", 0, "metadata/notes.txt is no file of t"),
    "another's table": (wrote("metadata/notes.parquet", "x"), "audit", ROW, "readers would take it for one"),
    "a shard that is gone": (without(SHARD), "audit", ROW, "committed with 2 rows, is gone"),
    "a shard of nothing": (wrote(SHARD, ""), "audit", ROW, "damaged"),
    "a shard that is cut": (_cut(SHARD), "audit", ROW, "damaged"),
    "a shard of noise, report": (wrote(SHARD, NOISE), "report", ENVIRONMENT, "damaged"),
    "a picture that is gone": (without(PICTURE), "audit", ROW, "is gone"),
    "a picture of nothing": (wrote(PICTURE, ""), "audit", ROW, "is damaged: its SHA-256 is another"),
    "a picture of noise": (wrote(PICTURE, NOISE), "audit", ROW, "is damaged: its SHA-256 is another"),
    "a picture that is a link": (_linked, "audit", ROW, "is damaged: its SHA-256 is another"),
    "a manifest's part that is gone": (without("manifest/*/*"), "audit", ROW, "0 of the 2 rows of its manifest lie"),
    "a manifest's part of noise": (wrote("manifest/plan/000000.jsonl", NOISE), "audit", ROW, "is damaged"),
    "a manifest's part of numbers": (wrote("manifest/plan/000000.jsonl", "1\n2"), "audit", ROW, "is damaged"),
    "a lease of noise": (wrote("lease.json", NOISE), "compact", ENVIRONMENT, "lease.json"),
    "a lease {}": (wrote("lease.json", "{}"), "compact", ENVIRONMENT, "lease.json"),
    "a summary of noise": (wrote("summary.json", NOISE), "audit", 0, "2 of 2 manifest rows"),
}  # fmt: skip


def cases() -> dict[str, Case]:
    found = {f"folder: {name}": case for name, case in FOLDERS.items()}
    for name, (change, job, code, says) in RUNS.items():
        found[f"run: {name}"] = Case(says, {"run": a_run(change)}, job, code)
    return found
