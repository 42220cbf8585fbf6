"""A folder of pictures with captions, as `datasets` reads an imagefolder: metadata.jsonl or metadata.csv, whose lines
have file_name and text (or caption, or prompt); or one prompt for all pictures."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from darkroom.manifest.csv_files import surplus
from darkroom.storage import NotFound, Refused, Store, decode, in_a_decoder, open_store
from darkroom.storage.paths import BAD_KEY, is_key
from darkroom.training.captions import Captioned, Digest, write_captions
from darkroom.training.ingest_folder import ENDS, READ_AT_ONCE, listed

METADATA = ("metadata.jsonl", "metadata.csv")
NAME, TEXTS = "file_name", ("text", "caption", "prompt")


def ingest_captions(source: str | None, out: str, prompt: str | None = None) -> dict[str, Any]:
    """Writes the pictures of a folder or s3:// uri, with their captions, under `out`; what its dataset.json holds.

    prompt: the caption of every picture of a folder without metadata. ValueError with every line and file that is
    wrong, at most 20 of them listed; StorageError.
    """
    if source is None:
        raise ValueError("ingest captions: wanted the folder of the pictures after the word captions")
    store = open_store(source)
    captions, problems = _captions(store, prompt)
    digest = Digest()
    for found in _checked(store, captions):
        if isinstance(found, str):
            problems.append(found)
        else:
            digest.add(found)
    if problems:
        raise ValueError(listed(source, problems))
    pictures = (Captioned(name, store.read(name), text) for name, text in captions.items())
    about = {"name": posixpath.basename(source.rstrip("/")) or "captions", "source": source}
    return write_captions(out, pictures, len(captions), digest.hex, about)


def _captions(store: Store, prompt: str | None) -> tuple[dict[str, str], list[str]]:
    """Captions by file, and what is wrong with the lines that say them. ValueError where there are none to read."""
    keys = [key for key in store.list() if not any(part.startswith(".") for part in key.split("/"))]
    pictures = [key for key in keys if key.lower().endswith(ENDS) and is_key(key)]
    unread = [f"{store.uri(key)}: {BAD_KEY}" for key in keys if not is_key(key)]
    said = [name for name in METADATA if name in keys]
    if not pictures:
        raise ValueError(f"{store.root} has no picture ({', '.join(ENDS)})")
    if prompt is not None and said:
        raise ValueError(f"{store.uri(said[0])} has the captions, and --prompt gives another for all: choose one")
    if prompt is not None:
        return dict.fromkeys(pictures, prompt), unread
    if len(said) != 1:
        raise ValueError(
            f"{store.root} has {' and '.join(said) or 'no captions'}: wanted either metadata.jsonl or metadata.csv, "
            f"with {NAME} and {TEXTS[0]}, or one --prompt for all pictures"
        )
    captions, problems = _by_file(store, said[0], set(keys))
    unnamed = [f"{store.uri(key)}: no line of {said[0]} names it" for key in pictures if key not in captions]
    return captions, problems + unnamed + unread


def _by_file(store: Store, metadata: str, keys: set[str]) -> tuple[dict[str, str], list[str]]:
    captions: dict[str, str] = {}
    problems = []
    for line, row in _rows(store, metadata):
        where = f"{metadata} line {line}"
        found = row if isinstance(row, str) else _pair(row)
        if isinstance(found, str):
            problems.append(f"{where}: {found}")
            continue
        name, text = found
        if name in captions:
            problems.append(f"{where}: {name} is named twice")
        elif name not in keys:
            problems.append(f"{where}: there is no file {name}")
        captions.setdefault(name, text)
    return {name: text for name, text in captions.items() if name in keys}, problems


def _rows(store: Store, metadata: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Lines by their numbers, from 1: what each says, or what is wrong with it."""
    try:
        text = store.read(metadata).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{store.uri(metadata)} is not UTF-8: {error}") from None
    if metadata.endswith(".csv"):
        yield from _cells(csv.DictReader(io.StringIO(text, newline="")))
        return
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut a caption at U+2028
        if line.strip():
            yield number, _object(line)


def _cells(table: csv.DictReader[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    try:
        for row in table:
            counts = surplus(row)
            yield table.line_num, f"{counts}; a text with commas stands in quotes" if counts else row
    except csv.Error as error:
        yield table.line_num + 1, f"cannot be read from here on: {error}"


def _object(line: str) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"is not JSON: {error}"
    return row if isinstance(row, dict) else f"wanted an object with {NAME} and {TEXTS[0]}"


def _pair(row: dict[str, Any]) -> tuple[str, str] | str:
    """File and caption, or what is wrong."""
    name = row.get(NAME)
    if not isinstance(name, str) or not name:
        return f"wanted {NAME!r}, the picture's file; it has {', '.join(map(str, row)) or 'nothing'}"
    texts = [key for key in TEXTS if row.get(key) is not None]
    if len(texts) != 1:
        return f"wanted one of {', '.join(TEXTS)} for {name}; it has {' and '.join(texts) or 'none'}"
    text = row[texts[0]]
    if not isinstance(text, str) or not text.strip():
        return f"the {texts[0]} of {name} is {text!r}, wanted a sentence"
    return posixpath.normpath(name), text.strip()


def _checked(store: Store, captions: dict[str, str]) -> Iterator[Captioned | str]:
    """Every picture that can be unpacked, or what is wrong with it; few of them in memory at once."""
    items = list(captions.items())
    with ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix="ingest") as pool:
        for start in range(0, len(items), READ_AT_ONCE):
            yield from pool.map(partial(_read, store), items[start : start + READ_AT_ONCE])


def _read(store: Store, item: tuple[str, str]) -> Captioned | str:
    name, text = item
    where = store.uri(name)
    try:
        data = store.read(name)
        in_a_decoder(decode, data, where)
    except (ValueError, NotFound, Refused) as error:
        return str(error)
    return Captioned(name, data, text)
