"""Rows that a command gives without a file, by `--prompt` or on standard input: a manifest is written of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from darkroom.batch.options import Options, refuse_wrong
from darkroom.manifest.inline_rows import named_by_row, write_rows
from darkroom.manifest.standard_input import read_rows_of
from darkroom.models.model_names import refuse_unknown
from darkroom.phases import Say, plural, to_stderr
from darkroom.storage import open_store

STANDARD_INPUT = "-"


@contextmanager
def with_manifest(
    options: Options,
    prompts: Sequence[str] = (),
    count: int | None = None,
    seed: int | None = None,
    keep: bool = True,
    say: Say = to_stderr,
) -> Iterator[Options]:
    """The options with a manifest that can be read as often as it is wanted. prompts: each is asked for `count` times,
    with seeds from `seed` on. keep: what is no file yet becomes one in OUT/inputs, so that its run goes on by it; else
    it is one as long as the block lasts. ValueError."""
    refuse_other(options.manifest, prompts, count, seed)
    if not prompts and options.manifest != STANDARD_INPUT:
        yield options
        return
    refuse_wrong(options)
    refuse_unknown(options.model)
    rows, places = _of_prompts(prompts, count or 1, seed or 0) if prompts else read_rows_of(sys.stdin.buffer)
    with named_by_row(places), nullcontext(options.out) if keep else TemporaryDirectory() as place:
        uri = write_rows(rows, open_store(place))
        if prompts:
            yield replace(options, manifest=uri)
            return
        if keep:
            say(f"standard input: {plural(len(rows), 'row')}, kept as {uri}, which may be given in its place")
        yield replace(options, manifest=uri, inputs_root=(*options.inputs_root, os.getcwd()))


def refuse_other(manifest: str, prompts: Sequence[str], count: int | None, seed: int | None) -> None:
    """ValueError where what is to be made is said twice, or not at all."""
    if manifest and prompts:
        raise ValueError(f"the manifest {manifest} and --prompt are given: wanted one of them")
    if not (manifest or prompts):
        raise ValueError('wanted a manifest, or a prompt by --prompt "a red seven"')
    if not prompts and (count is not None or seed is not None):
        raise ValueError("--count and --seed are of --prompt: in a manifest each row has a seed of its own")


def _of_prompts(prompts: Sequence[str], count: int, seed: int) -> tuple[list[dict[str, Any]], list[str]]:
    rows = [
        {"task": "text_to_image", "prompt": prompt, "seed": number}
        for prompt in prompts
        for number in range(seed, seed + count)
    ]
    return rows, ["--prompt"] * len(rows) if len(prompts) == 1 else []
