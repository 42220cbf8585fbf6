"""The job `darkroom export`: shards on Ray Data, a task each; then the cards; then, if asked, the hub.

OUT/.export/plan.json            what the shards are made by; an export by something else is refused here
OUT/.export/shards/NAME.json     the receipt of a shard that is whole: the same command again passes over it
OUT/data/..., OUT/SPLIT/...      the shards
OUT/croissant.json, OUT/README.md    written when all shards are: an export with a README.md is finished
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from darkroom.export.cards import CARDS, write_cards
from darkroom.export.plan import ExportOptions, ExportShard, Piece, Plan, identity, make_plan
from darkroom.export.shards import Receipt, file_of, write_shard
from darkroom.phases import Say, phase, phase_of_ray, plural
from darkroom.runs import Shard
from darkroom.runs.reading import read_run_record
from darkroom.storage import NotFound, StorageError, Store, open_store

OWN = ".export/"
SUBMISSIONS = "submissions/"  # where `darkroom submit` has put its record before the job begins
_CARDS_THERE = {".gitattributes", *CARDS}
SAID_SECONDS = 5.0
READERS = 16
# What a task may hold, in shards: the one it writes and, as it is sent off, a copy.
_SHARDS_IN_MEMORY, _MEMORY_SHARE = 2.5, 0.5
_FEWEST = 2**28  # bytes of a task that writes small shards: Python and Arrow


@dataclass(frozen=True)
class Exported:
    """receipts: of all shards; written: how many of them this job wrote."""

    receipts: list[Receipt]
    written: int

    @property
    def rows(self) -> int:
        return sum(receipt.rows for receipt in self.receipts)

    @property
    def bytes(self) -> int:
        return sum(receipt.bytes for receipt in self.receipts)


def export(options: ExportOptions, say: Say) -> Exported:
    """Makes the data set of a run, or what is missing of it. ValueError for what the user can mend; StorageError,
    ClusterError."""
    run, out = open_store(options.run), open_store(options.out)
    record = read_run_record(run)
    if record.get("kind") == "training":
        raise ValueError(f"{options.run} holds a training: only pictures of a run are exported")
    if options.push:
        check_token()
    phase(say, f"looking at the rows of {options.run}")
    plan = make_plan(options, run, claimed(out).get("bytes_per_pixel"))
    claim(out, options, plan)
    done = receipts_of(out, plan, options)
    todo = [shard for shard in plan.shards if shard.name not in done]
    _say_plan(say, plan, len(todo))
    if todo:
        phase_of_ray(say, options.address)
    for receipt in _counted(_on_ray(todo, plan, options), len(todo), say) if todo else ():
        done[receipt.name] = receipt
    exported = Exported([done[shard.name] for shard in plan.shards], len(todo))
    write_cards(out, options, plan, record, exported.receipts)
    if options.push:
        phase(say, f"pushing to {options.push}")
        push(out, options, exported.receipts, say)
    return exported


def claimed(out: Store) -> dict[str, Any]:
    """What is exported there, {} where nothing is."""
    try:
        return json.loads(out.read(f"{OWN}plan.json"))
    except NotFound:
        return {}


def claim(out: Store, options: ExportOptions, plan: Plan) -> None:
    """Says in `out` what is exported there. ValueError where something else lies there."""
    mine = {"digest": plan.digest, "bytes_per_pixel": plan.bytes_per_pixel} | identity(options)
    text = json.dumps(mine, indent=2).encode()
    there = claimed(out)
    if not there and out.has(but=SUBMISSIONS):
        raise ValueError(f"{options.out} holds something else: wanted a new place, or that of the same export")
    if not there and out.create(f"{OWN}plan.json", text):
        return
    there = there or claimed(out)  # of a job that began at the same moment
    if there.get("digest") != plan.digest:
        wanted = json.loads(text)
        other = [f"{name} {there.get(name)!r}" for name in identity(options) if there.get(name) != wanted[name]]
        why = f"with {', '.join(other)}" if other else "of other rows: the run has changed since"
        raise ValueError(f"{options.out} holds another export, {why}; wanted a new place")


def receipts_of(out: Store, plan: Plan, options: ExportOptions) -> dict[str, Receipt]:
    """Of the shards that are whole, by name."""

    def read(shard: ExportShard) -> Receipt | None:
        with suppress(NotFound):
            receipt = Receipt(**json.loads(out.read(_receipt_key(shard.name))))
            if out.exists(file_of(shard, options.format)):
                return receipt
        return None

    with ThreadPoolExecutor(READERS, thread_name_prefix="receipts") as pool:
        return {receipt.name: receipt for receipt in pool.map(read, plan.shards) if receipt}


@dataclass(frozen=True)
class ShardJob:
    """What every task is told."""

    run: str
    out: str
    format: str
    png_text: bool

    def write(self, shard: ExportShard, files: Mapping[str, Shard]) -> Receipt:
        """Writes a shard, then its receipt."""
        out = open_store(self.out)
        receipt = write_shard(shard, self.format, self.png_text, files, open_store(self.run), out)
        out.write(_receipt_key(shard.name), json.dumps(asdict(receipt)).encode())
        return receipt


def _receipt_key(name: str) -> str:
    return f"{OWN}shards/{name}.json"


def _on_ray(todo: list[ExportShard], plan: Plan, options: ExportOptions) -> Iterator[Receipt]:
    """Receipts as they come. StorageError as a worker met it; ClusterError."""
    import ray  # here: whoever has nothing to write need not wait for it
    from ray.data import TaskPoolStrategy

    from darkroom.ray_cluster import connect

    connect(options.address, options.verbose)
    job = ShardJob(open_store(options.run).root, open_store(options.out).root, options.format, options.png_text)
    # Blocks of our own, one for each shard, so that a task is a shard.
    dataset = ray.data.from_blocks([_block(shard, plan) for shard in todo]).map_batches(
        write_block,
        fn_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        compute=TaskPoolStrategy(size=min(len(todo), _at_once(ray.cluster_resources(), options.shard_bytes))),
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            if row["error"]:
                raise StorageError(row["error"])
            yield Receipt(**json.loads(row["receipt"]))


def _at_once(resources: Mapping[str, float], shard_bytes: int) -> int:
    """Tasks, so that what they hold is half of the cluster's memory at most."""
    room = resources.get("memory", 0.0) * _MEMORY_SHARE / (_SHARDS_IN_MEMORY * shard_bytes + _FEWEST)
    return max(1, min(int(room), int(resources.get("CPU", 1))))


def _block(shard: ExportShard, plan: Plan) -> pa.Table:
    """A row: the shard, and what the run's log says of the files that its rows lie in, but for their ids and keys."""
    files = [json.dumps(plan.files[piece.file].facts()) for piece in shard.pieces]
    places = [piece.places.tolist() for piece in shard.pieces]
    facts = {"split": shard.split, "number": shard.number, "of": shard.of}
    kinds = {"files": pa.array([files]), "places": pa.array([places], pa.list_(pa.list_(pa.int32())))}
    return pa.table({name: [value] for name, value in facts.items()} | kinds)


def write_block(block: pa.Table, job: ShardJob) -> pa.Table:
    """`ShardJob.write` as Ray Data calls it. An outage travels as a text: an error would come back wrapped."""
    (row,) = block.to_pylist()
    nothing = np.empty(0, np.uint64)
    files = [Shard(**json.loads(facts), ids=nothing, keys=nothing, ok=nothing) for facts in row["files"]]
    pieces = [Piece(file.name, np.array(at)) for file, at in zip(files, row["places"], strict=True)]
    shard = ExportShard(row["split"], row["number"], row["of"], tuple(pieces))
    answer: dict[str, Any] = {"receipt": "", "error": ""}
    try:
        answer["receipt"] = json.dumps(asdict(job.write(shard, {file.name: file for file in files})))
    except StorageError as error:
        answer["error"] = str(error)
    return pa.Table.from_pylist([answer])


def _counted(receipts: Iterator[Receipt], shards: int, say: Say) -> Iterator[Receipt]:
    """The receipts as they come, and every few seconds a line on how many did."""
    last, rows = time.monotonic(), 0
    for count, receipt in enumerate(receipts, 1):
        rows += receipt.rows
        if time.monotonic() - last > SAID_SECONDS:
            last = time.monotonic()
            phase(say, f"{count:,} of {plural(shards, 'shard')}, {plural(rows, 'row')}")
        yield receipt


def _say_plan(say: Say, plan: Plan, todo: int) -> None:
    splits = ", ".join(f"{count:,} {name}" for name, count in plan.facts.splits.items())
    there = len(plan.shards) - todo
    phase(say, f"{plural(len(plan.shards), 'shard')} ({splits}), {there:,} there already")


def check_token() -> None:
    """ValueError where the hub's client has no token of this user."""
    from huggingface_hub import get_token

    if not get_token():
        raise ValueError("--push wants a token of the hub that may write: set HF_TOKEN")


def push(out: Store, options: ExportOptions, receipts: Sequence[Receipt], say: Say) -> None:
    """Brings a finished export to the hub, into a repository that is private unless it was there; shards that lie there
    already stay. ValueError where the hub refuses, or other files lie there; StorageError where it fails."""
    from huggingface_hub import CommitOperationAdd, HfApi

    name = options.push
    assert name
    api = HfApi()

    def commit(keys: Sequence[str], message: str) -> None:
        files = [CommitOperationAdd(key, io.BytesIO(out.read(key))) for key in keys]
        api.create_commit(name, files, commit_message=message, repo_type="dataset")

    with _reporting(name):
        api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        there = {file.path: file for file in api.list_repo_tree(name, recursive=True, repo_type="dataset")}
        keys = {receipt.name: _keys(out, receipt) for receipt in receipts}
        files = {path for path, file in there.items() if hasattr(file, "blob_id")}
        if others := sorted(files - _CARDS_THERE - {key for own in keys.values() for key in own}):
            raise ValueError(f"{name} holds other files, such as {others[0]}: wanted a new repository, or this one's")
        for count, receipt in enumerate(receipts, 1):
            if receipt.file in files and _is(there[receipt.file], receipt, out):
                continue
            commit(keys[receipt.name], f"{receipt.name}: {plural(receipt.rows, 'row')}")
            phase(say, f"{count:,} of {plural(len(receipts), 'shard')} at the hub")
        commit(CARDS, "data card and Croissant metadata")


def _keys(out: Store, receipt: Receipt) -> list[str]:
    """The files of a shard."""
    folder, _, name = receipt.file.rpartition("/")
    return list(out.list(f"{folder}/")) if name == "metadata.jsonl" else [receipt.file]


def _is(info: object, receipt: Receipt, out: Store) -> bool:
    """Whether the file at the hub is ours: git knows a small one by its own digest."""
    if lfs := getattr(info, "lfs", None):
        return lfs.sha256 == receipt.sha256
    data = out.read(receipt.file)
    return getattr(info, "blob_id", "") == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def _reporting(name: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"--push {name}: {error}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        if status in (401, 403):
            raise ValueError(f"the hub refuses {name} ({status}): HF_TOKEN must be allowed to write there") from None
        raise StorageError(f"the hub failed for {name} ({status})") from None
    except (HTTPError, ConnectionError, TimeoutError, OSError) as error:
        raise StorageError(f"the hub cannot be reached for {name}: {type(error).__name__}") from None
