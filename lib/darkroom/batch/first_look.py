"""What is wrong with a command, found within a second: its options, its places, and its rows by themselves. Torch and
Ray, which cost seconds, are imported only after that; what the model says of the rows comes then."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from darkroom.batch.options import Options, refuse_wrong
from darkroom.manifest import ManifestError, WrittenRow, parse_task, read_rows
from darkroom.manifest.abilities import as_read
from darkroom.manifest.messages import sentences
from darkroom.manifest.problems import Problems
from darkroom.manifest.sources import is_packed, suffix_of
from darkroom.models.model_names import refuse_unknown
from darkroom.ray_cluster import refuse_lost_token
from darkroom.storage import LocalStore, Store, open_store

ROWS = 1_000  # a tenth of a second
WHOLE, WHOLE_BYTES = (".yaml", ".yml", ".json"), 64 * 2**10  # are parsed as a whole, where they are no larger
ANY_STAGE = (64,) * 9  # a size of "stage2" is good until the model is asked


def look(options: Options) -> None:
    """Raises ValueErrors for the user's part, ManifestError among them; StorageError where the run cannot be reached,
    as without credentials; ClusterError for a cluster that has ended."""
    refuse_wrong(options)
    refuse_lost_token()
    refuse_unknown(options.model)
    look_at_rows(options.manifest, "; --dry-run says all at once")
    out = open_store(options.out)
    _refuse_file(out)
    out.exists("run.json")


def look_at_rows(manifest: str, advice: str = "") -> None:
    """ManifestError. Of a file on this machine; what is elsewhere is read once, when the model is known."""
    if not _is_quick(manifest):
        return
    problems = Problems()
    good = number = 0
    for number, row in enumerate(islice(read_rows(manifest), ROWS), 1):
        texts = _problems(row)
        good += not texts
        for text in texts:
            problems.add(number, row.where, text)
    if problems:
        others = f"only the first {ROWS:,} rows were read, and not" if number == ROWS else "the other rows were not"
        note = f"{others} held against the model yet{advice}" if good else ""
        raise ManifestError(problems.lines(), note)


def _refuse_file(out: Store) -> None:
    """ValueError where a file lies in a run's place, or in that of a folder above it."""
    places = (Path(out.root), *Path(out.root).parents) if isinstance(out, LocalStore) else ()
    for place in places:
        if os.path.isfile(place):  # False where one may not look
            raise ValueError(f"--out is {out.root}, and {place} is a file: wanted a folder, which may be a new one")


def _is_quick(manifest: str) -> bool:
    path = Path(manifest)
    if "://" in manifest or not path.suffix or any(sign in manifest for sign in "*?["):
        return False
    if not path.exists():
        return True
    whole = suffix_of(path.name) in WHOLE
    return path.is_file() and not (whole and (is_packed(path.name) or path.stat().st_size > WHOLE_BYTES))


def _problems(row: WrittenRow) -> list[str]:
    if row.problem:
        return [row.problem]
    try:
        parse_task(as_read(row.data, ANY_STAGE))
    except ValidationError as error:
        return sentences(error, row.data)
    except ValueError as error:
        return [str(error)]
    return []
