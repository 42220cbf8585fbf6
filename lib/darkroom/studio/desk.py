"""Where rows are made one by one, for people who wait for them: a model that stays open, and a run that its rows go to.

Rows take the way of a job's: the same checks, plans, engines, results and ledger, without Ray. Rows of all that come at
once share passes; what the run holds already is not made again.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import json
import secrets
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import Any

import torch

from darkroom.batch.capacity import usual
from darkroom.batch.load_inputs import LoadOptions, load_row
from darkroom.batch.options import SMALL_ENCODER, Options, parse_named, refuse_wrong, stage_dtypes
from darkroom.batch.order import Order, run_record
from darkroom.batch.planned_rows import ReadRows, read_lines
from darkroom.batch.planning import cut
from darkroom.batch.prompts import find_missing, find_stores
from darkroom.batch.row_state import RowState
from darkroom.batch.sampler_worker import SamplerWorker
from darkroom.batch.scoring import Judge
from darkroom.batch.write_results import WriteOptions, write_unit
from darkroom.manifest.inline_rows import FOLDER, named_by_row, write_rows
from darkroom.models.catalog import abilities, open_model
from darkroom.phases import Say, to_stderr
from darkroom.ray_cluster import ClusterError
from darkroom.runs import Ledger, Log, Shard, own
from darkroom.runs.maintenance import TEMPORARY
from darkroom.storage import LocalStore, NotFound, StorageError, Store, image_key_of, open_store
from darkroom.storage.hashing import hashes

CAPACITY = 8  # evaluations a pass, which always has that shape; a row with guidance fills two places of it
REQUESTS = f"{FOLDER}/requests.jsonl"  # of the run: its manifest, the rows that were made
MOST_OPEN = 64  # rows that may wait at once


@dataclass(eq=False)
class Ticket:
    """A row that was asked for. row: its canonical form; known: the run held it already; record: its row of the results
    once it is made; problem: why it was not, "" for no such reason; askers: how many wait for it."""

    id: str
    row: dict[str, Any]
    known: bool = False
    problem: str = ""
    record: dict[str, Any] | None = None
    asked: float = field(default_factory=time.monotonic)
    ended: float | None = None
    task: Future[None] | None = None
    askers: int = 1

    @property
    def seconds(self) -> float:
        """For which it was waited."""
        return (self.ended or time.monotonic()) - self.asked

    def end(self, record: dict[str, Any] | None, problem: str = "") -> None:
        self.record, self.problem, self.ended = record, problem, time.monotonic()


class Desk:
    """A model, open, and a run that is the desk's own until `close`.

    Methods may be called from many threads. Opening it raises ValueError for what cannot be had, and Held, a
    StorageError, where another process owns the run.
    """

    def __init__(self, options: Options, say: Say = to_stderr) -> None:
        """options: of `generate`; `out` is where runs lie, the desk's among them, and its manifest is its own."""
        refuse_wrong(options)
        say("opening the model")
        named = (parse_named("--adapter", options.adapter), parse_named("--control", options.control))
        self.model = open_model(options.model, *named, options.depth)
        self.abilities = abilities(self.model, scorer=options.scorer is not None)
        place = f"{options.out.rstrip('/')}/studio-{self.model.name}-{self.model.revision[:8]}"
        self.store = open_store(place)
        self.options = replace(options, out=place, manifest=self.store.uri(REQUESTS))
        self._dtypes = stage_dtypes(self.model, options.dtype, on_gpu=torch.cuda.is_available())
        self._stores = find_stores(self.model, self.model.encoders, self._dtypes, self.store.root)
        self._lock, self._encoding, self._recording = threading.RLock(), threading.Lock(), threading.Lock()
        self._unrecorded, self._pause = False, 0.0
        self._recorder: asyncio.Task[None] | None = None
        self._encoders: dict[str, Any] = {}
        self._open: dict[str, Ticket] = {}  # by id: what two ask for is made once
        order, first = self.order, self.model.stages[0]
        judging = order.judging
        self._judge = Judge(judging, torch.get_num_threads()) if judging.finishes else None
        names = (self.model.name, self.model.revision, first.process.default_sampler)
        self._write, self._units = WriteOptions(self.store.root, secrets.token_hex(4), *names), 0
        self._maker = order.maker
        self._load = LoadOptions.of(self.model, "", (self.store.root,), self._maker.nets)
        self._ends = ExitStack()
        self._writer = self._ends.enter_context(own(self.store, "darkroom studio"))
        try:
            self._writer.open()
            self._requests = _read_requests(self.store)
            if self._requests:
                self._record()  # what a desk that was killed had no time to say
            self._workers = [self._start_worker(stage.number, say) for stage in self.model.stages]
        except BaseException:
            self._ends.close()
            raise
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="desk", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # an engine's thread must not be at work while the interpreter goes away

    @property
    def order(self) -> Order:
        """As the requests are now."""
        return Order(self.options, self.model, self.store)

    def keep_picture(self, data: bytes) -> str:
        """Stores a picture that somebody brought, by its content; its uri, as a row names it."""
        key = f"{FOLDER}/{hashlib.sha256(data).hexdigest()[:16]}.png"
        if not self.store.exists(key):
            self.store.write(key, data)
        return self.store.uri(key)

    def submit(self, row: dict[str, Any]) -> Ticket:
        """Asks for a row, as a manifest has it. ManifestError with every problem; ValueError where too many wait;
        StorageError."""
        line, prompts = self._planned(row)
        with self._lock:
            if (waiting := self._open.get(line["id"])) is not None:
                waiting.askers += 1
                return waiting
            ticket = Ticket(line["id"], line["row"])
            if (record := self._find(line)) is not None:
                ticket.known = True
                ticket.end(record)
                return ticket
            if len(self._open) >= MOST_OPEN:
                raise ValueError(f"{MOST_OPEN} pictures are waited for already: wanted once some of them are made")
            self._open[ticket.id] = ticket
        ticket.task = asyncio.run_coroutine_threadsafe(self._make(ticket, line, prompts), self._loop)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """One asker less waits for it; it goes no further once nobody does."""
        with self._lock:
            ticket.askers = max(ticket.askers - 1, 0)
            if not ticket.askers and ticket.task is not None and ticket.ended is None:
                self._end(ticket, None, "cancelled")  # here, as a task that has not begun never says so
                ticket.task.cancel()

    def progress(self, ticket: Ticket) -> tuple[int, int]:
        """Moves made, and all, of the stage that the row is at; (0, 0) while it is at none."""
        found = [worker.moves(ticket.id) for worker in self._workers]
        return next((moves for moves in found if moves is not None), (0, 0))

    def picture(self, record: dict[str, Any]) -> bytes:
        """The PNG of a row of the results. StorageError."""
        return self.store.read(image_key_of(record["image_uri"]))

    def video(self, record: dict[str, Any]) -> bytes:
        """The MP4 of a row of the results that has one. StorageError."""
        return self.store.read(image_key_of(record["video_uri"]))

    def close(self) -> None:
        """Ends what waits and gives the run back."""
        atexit.unregister(self.close)
        for ticket in list(self._open.values()):
            ticket.askers = 0
            self.cancel(ticket)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        for worker in self._workers:
            worker.engine.close()
        with suppress(StorageError, RuntimeError):  # no thread begins while the interpreter ends: the next desk says it
            if self._requests:
                self._record()
        with self._lock, suppress(StorageError):
            self._writer.close()
        self._ends.close()

    def _start_worker(self, number: int, say: Say) -> SamplerWorker:
        name = self.model.encoder_of(number) if self.model.encoders else None
        say(f"stage {number}: loading the weights")
        return SamplerWorker(
            self.order.address,
            number,
            self._capacity(number),
            torch.get_num_threads(),
            None if name is None else self._stores[name],
            self._dtypes[number],
            revision=self.model.revision,
            adapters=self.model.adapters,
            nets=self.model.nets,
        )

    def _capacity(self, number: int) -> int:
        """Evaluations a pass, where nobody said how many: of videos as few as a job's."""
        if self.options.capacity != "auto":
            return self.options.capacity
        stage = self.model.stages[number - 1]
        return CAPACITY if stage.video is None else usual(stage, on_gpu=torch.cuda.is_available())

    def _planned(self, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, bool]]]:
        """The row as a file of work has it, and what each encoder is asked. ManifestError."""
        with TemporaryDirectory() as folder, named_by_row():
            store, maker = LocalStore(folder), self._maker
            work = cut(ReadRows(write_rows(row, store), self.abilities, maker), Log(), maker, None, store)
            (line,) = read_lines(store, f"work/{work.plan}")
        return line, work.prompts

    def _find(self, line: dict[str, Any]) -> dict[str, Any] | None:
        """The good row of these settings, where the run holds it."""
        tables = self._writer.rows_with_keys(hashes([line["key"]]))
        rows = (row for table in tables for row in table.to_pylist())
        return next((row for row in rows if row["key"] == line["key"] and row["status"] == "ok"), None)

    async def _make(self, ticket: Ticket, line: dict[str, Any], prompts: dict[str, dict[str, bool]]) -> None:
        try:
            state = RowState.of_line(0, line)
            await asyncio.to_thread(load_row, state, self._load)
            await asyncio.to_thread(self._encode, prompts)
            for worker in self._workers:
                await worker.process([state])
                if self._judge is not None and worker.number == 1:
                    await asyncio.to_thread(self._judge.choose, [state])
            if self._judge is not None:
                await asyncio.to_thread(self._judge.finish, [state])
            if state.failure:
                self._end(ticket, None, state.failure.text)
            else:
                self._end(ticket, await asyncio.to_thread(self._keep, state))
                self._record_soon()
        except (StorageError, ClusterError, ValueError) as error:
            self._end(ticket, None, str(error))
        except Exception as error:  # a bug must end a wait too
            self._end(ticket, None, f"{type(error).__name__}: {error}")

    def _end(self, ticket: Ticket, record: dict[str, Any] | None, problem: str = "") -> None:
        """Once. Nobody sees a ticket that has ended and is still waited for: its place is another's at once."""
        with self._lock:
            if ticket.ended is None:
                del self._open[ticket.id]
                ticket.end(record, problem)

    def _encode(self, prompts: dict[str, dict[str, bool]]) -> None:
        """What prompts are to each encoder that reads them, where that is not known yet."""
        with self._encoding:
            for one in find_missing(self.model, prompts, self._dtypes, self._stores):
                encoder = self._encoders.pop(one.encoder, None) or self._open_encoder(one.encoder, one.dtype)
                one.store.put(one.prompts, encoder.encode(one.prompts))
                if self._is_small(one.encoder, one.dtype):
                    self._encoders[one.encoder] = encoder

    def _open_encoder(self, name: str, dtype: str) -> Any:
        on_gpu = torch.cuda.is_available() and not self._is_small(name, dtype)
        return self.model.text_encoder(name, torch.device("cuda" if on_gpu else "cpu"), dtype)

    def _is_small(self, name: str, dtype: str) -> bool:
        return self.model.encoder_memory(name, dtype).weights <= SMALL_ENCODER and dtype != "float16"

    def _keep(self, state: RowState) -> dict[str, Any]:
        """Stores the row and its picture in the run; its row of the results."""
        with self._lock:
            state.unit, self._units = self._units, self._units + 1
            receipt = write_unit([state], self._write)
            self._requests[state.id] = {"id": state.id, **state.row}  # one that was lost is made a second time
            self.store.write(REQUESTS, "".join(f"{json.dumps(row)}\n" for row in self._requests.values()).encode())
            self._writer.commit([Shard.from_json(receipt.shard)])
            record = self._find({"key": state.key})
            assert record is not None, f"{state.id} was committed"
            return record

    def _record_soon(self) -> None:
        self._unrecorded = True
        if self._recorder is None or self._recorder.done():
            self._recorder = self._loop.create_task(self._record_later())

    async def _record_later(self) -> None:
        """Once for all rows that come meanwhile, as all requests are read for it: it takes a tenth of the time."""
        while self._unrecorded:
            await asyncio.sleep(self._pause)
            self._unrecorded, began = False, time.monotonic()
            with suppress(StorageError):  # the next row tries it again, or `close`
                await asyncio.to_thread(self._record)
            self._pause = 9 * (time.monotonic() - began)

    def _record(self) -> None:
        """Says in the run which rows it is of."""
        with self._recording:
            order, store = self.order, self.store
            work = cut(order.rows, Ledger(store).read(), order.maker, None, store)
            store.write("run.json", json.dumps(run_record(order, work), indent=2, ensure_ascii=False).encode())
            old = [key for key in store.list("manifest/") if not key.startswith(f"manifest/{work.plan}/")]
            store.delete(*old, *(key for folder in TEMPORARY for key in store.list(folder)))


def _read_requests(store: Store) -> dict[str, dict[str, Any]]:
    """The rows of the run's manifest by their ids."""
    try:
        rows = [json.loads(line) for line in store.read(REQUESTS).splitlines()]
    except NotFound:
        return {}
    return {row["id"]: row for row in rows}
