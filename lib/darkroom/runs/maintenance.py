"""Looking after a run: small files become large ones, and what nothing refers to goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from darkroom.phases import plural
from darkroom.runs.ledger import Ledger
from darkroom.runs.reading import read_run_record
from darkroom.runs.results import latents_key, maps_of
from darkroom.runs.writer import own
from darkroom.storage import Store, image_key_of, open_store
from darkroom.storage.hashing import hashes

TEMPORARY = ("work/", "duplicates/", "twins/")  # what a job leaves only where it died; the last by its name before
_BATCH = 1_000  # keys that are deleted at once


def compact(uri: str) -> tuple[str, bool]:
    """Merges a run's small shards, whatever their size, rolls its log up, and says in its rows where the run lies now;
    what was done, as text, and whether every shard is whole and every row there once. NoRun if there is none; Held
    where a job owns it."""
    store = _open(uri)
    with own(store, "darkroom compact") as writer:
        gone = writer.open()
        before = len(writer.log.shards)
        moved = writer.relocate()
        writer.compact()
        writer.roll_up()
        rows, after = writer.log.rows, len(writer.log.shards)
        twice = len(writer.log.index.twice())
    text = f"{plural(rows, 'row')} of {uri}, in {plural(after, 'file')} now, in {before:,} before"
    if moved:
        text += f"; {moved:,} named their pictures where the run lay before"
    if gone:
        text += f"; {plural(len(gone), 'file is', 'files are')} gone: run its `darkroom generate` again"
    if twice:
        text += f"; {plural(twice, 'row is', 'rows are')} there twice: run its `darkroom generate` again"
    if writer.damaged:
        left = plural(len(writer.damaged), "file is damaged and was", "files are damaged and were")
        text += f"; {left} left alone, see `darkroom audit --fix`"
    return text, not (gone or twice or writer.damaged)


def clean(uri: str, remove: bool) -> str:
    """What of a run nothing refers to, as text; with `remove` it is deleted. NoRun if there is none; Held where a
    job owns it."""
    store = _open(uri)
    if remove:
        with own(store, "darkroom clean") as writer:
            writer.open()
            doomed = list(_unreferenced(store, writer.ledger))
            for first in range(0, len(doomed), _BATCH):
                writer.check()
                store.delete(*doomed[first : first + _BATCH])
    else:
        doomed = list(_unreferenced(store, Ledger(store)))
    if not doomed:
        return f"nothing in {uri} is left over"
    verb = "removed" if remove else "would remove"
    kinds = Counter(f"{key.partition('/')[0]}/" for key in doomed)
    parts = ", ".join(f"{count:,} of {kind}" for kind, count in sorted(kinds.items()))
    more = "" if remove else "; say --yes to remove them"
    return f"{verb} {plural(len(doomed), 'object')} of {uri}: {parts}{more}"


def _open(uri: str) -> Store:
    store = open_store(uri)
    read_run_record(store)
    return store


def _unreferenced(store: Store, ledger: Ledger) -> Iterator[str]:
    for folder in ("staging/", *TEMPORARY):
        yield from store.list(folder)
    referred, made = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.uint64)]
    for shard in ledger.read().shards.values():
        table = ledger.table(shard, ["image_uri", "video_uri", "controls", "key", "status"])
        *uris, controls, row_keys, statuses = (column.to_pylist() for column in table.columns)
        rows = zip(row_keys, statuses, strict=True)
        made.append(hashes(latents_key(row_key) for row_key, status in rows if status == "ok"))
        referred += [hashes(image_key_of(uri) for uri in own if uri) for own in uris]
        referred.append(hashes(key for own in controls for key in maps_of(own)))
    keys = [*store.list("images/"), *store.list("maps/")]
    stay = np.isin(hashes(keys), np.concatenate(referred))
    yield from (key for key, stays in zip(keys, stay.tolist(), strict=True) if not stays)
    # Of a row that failed, or was never committed, they are what the next job goes on from.
    kept = list(store.list("latents/"))
    spent = np.isin(hashes(kept), np.concatenate(made))
    yield from (key for key, is_spent in zip(kept, spent.tolist(), strict=True) if is_spent)
