"""Whatever a manifest is, it is rows or one error with a sentence for each problem, in bounded time and memory."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from darkroom.manifest import Abilities, ManifestError, open_manifest

TEXT = Abilities("if-xs", (24, 48), 48, "text", "diffusion", 1000, upscale=True)
ROW = {"task": "text_to_image", "prompt": "a red seven"}
YAML_ROW = "task: text_to_image, prompt: a"


def row(**more: object) -> str:
    return json.dumps(ROW | more)


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def bomb() -> str:
    """Each level names the one before ten times."""
    lines = ["x0: &l0 {a: 1}"]
    lines += [f"x{n}: &l{n} {{{', '.join(f'k{k}: *l{n - 1}' for k in range(10))}}}" for n in range(1, 9)]
    return "\n".join([*lines, f"rows: [{{{YAML_ROW}, stage2: *l8}}]"])


def nested(depth: int) -> pa.Table:
    value, kind = 1, pa.int64()
    for _ in range(depth):
        value, kind = {"a": value}, pa.struct([("a", kind)])
    return pa.table({"task": ["text_to_image"], "stage2": pa.array([value], kind)})


def one_text(rows: int, length: int) -> pa.Table:
    """A text that is stored once and that every row has."""
    prompts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["a" * length]))
    return pa.table({"task": ["text_to_image"] * rows, "prompt": prompts.cast(pa.string()) if rows < 10 else prompts})


HOSTILE: dict[str, tuple[str, str | Callable[[], bytes], str]] = {
    "deep JSON": ("a.jsonl", '{"a":' * 900 + "1" + "}" * 900, "line 1: nested too deeply, in more than 16 levels"),
    "deeper JSON": ("a.jsonl", '{"a":' * 100_000 + "1", "line 1: not a JSON object: nested too deeply"),
    "deep views": ("a.jsonl", row(views=json.loads("[" * 40 + "]" * 40)), "line 1: nested too deeply"),
    "deep CSV": ("a.csv", "task,views\nanagram," + "[" * 5000 + "]" * 5000, "line 2: the cell of 'views' is not JSON"),
    "deep YAML in brackets": ("a.yaml", "rows: " + "[" * 100_000, "line 1: nested too deeply, in more than 64 levels"),
    "deep YAML in braces": ("a.yaml", "rows: " + "{a: " * 20_000, "line 1: nested too deeply, in more than 64 levels"),
    "deep YAML in dashes": ("a.yaml", "rows:\n" + "- " * 50_000 + "1", "line 2: nested too deeply"),
    "deep YAML in aliases": (
        "a.yaml",
        "\n".join(["x0: &a0 [1]", *(f"x{n}: &a{n} [*a{n - 1}]" for n in range(1, 1000)), "rows: [*a999]"]),
        "nested too deeply",
    ),
    "aliases that flood a value": ("a.yaml", bomb(), "its aliases (*name) make"),
    "a large YAML file": ("a.yaml", "#" * (17 * 2**20), "a YAML file may have 16 MiB; for more rows there is JSONL"),
    "many values in YAML": ("a.yaml", "rows: [" + "1," * 2_000_000 + "1]", "more than 1,000,000 values in a YAML file"),
    "a template of blanks": (
        "a.yaml",
        f'rows: [{{{YAML_ROW}, id: "{{seed:>99999999999}}", seed: 1}}]',
        "row 1: id template '{seed:>99999999999}': the format '>99999999999' is not offered",
    ),
    "a template of templates": (
        "a.yaml",
        f'rows: [{{{YAML_ROW}, id: "{"{prompt}" * 9000}"}}]',
        "row 1: id template of",
    ),
    "a matrix of 10^30": (
        "a.yaml",
        f"matrix: {{{YAML_ROW}, " + ", ".join(f"k{n}: {list(range(1000))}" for n in range(10)) + "}",
        "matrix 1: 1,000,000,000,000,000,000,000,000,000,000 combinations; all matrices of a file may have 10,000,000",
    ),
    "many keys": ("a.jsonl", row(**{f"key{n}": n for n in range(100_000)}), "and 99,980 more mistakes in this row"),
    "many nulls": ("a.jsonl", row(**{f"key{n}": None for n in range(100_000)}), "and 99,980 more mistakes in this row"),
    "a long key": ("a.jsonl", row(**{"k" * 10**6: 1}), "line 1: unknown key 'kkk"),
    "a long line": (
        "a.jsonl",
        row(id="a") + "\n" + row(prompt="a" * 5_000_000),
        "line 2: has more than 4 MiB; nothing was",
    ),
    "a long prompt": ("a.jsonl", row(prompt="a" * 20_001), "'prompt' must have at most 20000 characters, was 'aaa"),
    "many views": (
        "a.jsonl",
        json.dumps({"task": "anagram", "views": [{"view": "identity", "prompt": "a"}] * 50_000}),
        "line 1: 'views' must be at most 64, was [{'view'",
    ),
    "many components": (
        "a.jsonl",
        json.dumps({"task": "hybrid", "components": [{"component": "scale", "prompt": "a", "weight": 0.1}] * 10_000}),
        "line 1: 'components' must be at most 64, was [{'component'",
    ),
    "a view that is too fine": (
        "a.jsonl",
        json.dumps({"task": "anagram", "views": [{"view": "patch_permute", "pieces": 100, "prompt": "a"}]}),
        "line 1: view 1: 'patch_permute' cuts 100 pieces a side and takes pictures of 100 px or more",
    ),
    "a long cell": (
        "a.csv",
        "task,prompt\ntext_to_image," + "a" * 200_000,
        "cannot be read from here on: field larger",
    ),
    "a CSV without an end of line": ("a.csv", "task,prompt," + "a" * 5_000_000, "a line has more than 4 MiB"),
    "many columns": (
        "a.csv",
        ",".join(f"c{n}" for n in range(200_000)),
        "line 1: the column 'c19' is none that a task",
    ),
    "a quote that never ends": (
        "a.csv",
        'task,prompt\ntext_to_image,"a\n' + "b\n" * 500_000,
        "field larger than field limit",
    ),
    "a text that unpacks": ("a.parquet", lambda: parquet(one_text(1, 50_000_000)), "1 of its rows unpack to 50,0"),
    "a text that unpacks among rows": (
        "a.parquet",
        lambda: parquet(one_text(100_000, 300_000)),
        "holds a text of 300,000 bytes, wanted at most 131,072",
    ),
    "a text that is repeated": (
        "a.parquet",
        lambda: parquet(one_text(5_000, 100_000)),
        "row 1: 'prompt' must have at most 20000 characters",
    ),
    "a deep table": ("a.parquet", lambda: parquet(nested(60)), "row 1: nested too deeply"),
    "rows without columns": (
        "a.parquet",
        lambda: parquet(pa.table({"a": [1]}).select([])),
        "a.parquet: there are no columns",
    ),
    "a column twice": (
        "a.parquet",
        lambda: parquet(pa.table([["text_to_image"], ["a"], ["b"]], names=["task", "prompt", "prompt"])),
        "a.parquet: the column 'prompt' is there 2 times",
    ),
}

# Each in a process of its own, which has a gigabyte beside what its imports take, and may calculate for 5 seconds.
CHILD = """
import os, resource, sys
from darkroom.manifest import Abilities, ManifestError, open_manifest
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for uri in {uris!r}:
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, size + 2**30))
        resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
        sys.stdout = open(uri + ".out", "w")
        try:
            print("good", open_manifest(uri, {able!r}).rows)
        except ManifestError as error:
            print(error)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each hostile manifest ends in, "" where nothing was said."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = {}
    for number, (name, (file, content, _)) in enumerate(HOSTILE.items()):
        path = paths[name] = folder / str(number) / file
        path.parent.mkdir()
        path.write_bytes(content.encode() if isinstance(content, str) else content())
    script = CHILD.format(able=TEXT, uris=[str(path) for path in paths.values()])
    subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=300, env=os.environ | {"PYTHONPATH": ":".join(sys.path)}
    )
    found = {name: path.with_name(path.name + ".out") for name, path in paths.items()}
    return {name: path.read_text() if path.exists() else "" for name, path in found.items()}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_ends_in_a_sentence(name: str, told: dict[str, str]) -> None:
    assert HOSTILE[name][2] in told[name]
    assert all(len(line) < 1000 for line in told[name].splitlines())


def test_templates_and_names_of_odd_forms(tmp_path: Path) -> None:
    """One sentence each, and none of Python's words."""
    odd = ["{seed.__class__}", "{seed!r}", "{", "{0}", "{seed:zz}", "{seed:{seed}}"]
    rows = "\n".join(f"- {{{YAML_ROW}, seed: 1, id: {json.dumps(template)}}}" for template in odd)
    (tmp_path / "a.yaml").write_text(f"rows:\n{rows}\n")
    with pytest.raises(ManifestError) as caught:
        open_manifest(str(tmp_path / "a.yaml"), TEXT)
    assert len(caught.value.problems) == len(odd)


GOOD = {
    "a.jsonl": (row(id="a", seed=3) + "\n" + row(views=None, size=24)).encode(),
    "a.csv": b'task,prompt,seed,resample\ntext_to_image,"a, b",3,\ninpaint,b,4,"{""jump"": 2, ""times"": 3}"\n',
    "a.yaml": b"defaults: &d {task: text_to_image}\nrows:\n- {<<: *d, prompt: a}\nmatrix: {prompt: [a], seed: [1]}\n",
    "a.parquet": parquet(pa.table({"task": ["text_to_image"] * 3, "prompt": ["a", "b", None], "seed": [1, 2, 3]})),
}
PIECES = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"\n",
    b"\x00",
    b"\xff",
    b"- ",
    b"*d",
    b"&d ",
    b"!!",
    b"0",
    b"1e999",
    b"#",
]


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, bytes]:
    """A good manifest in which a few bytes are other ones, gone or more."""
    name = draw(st.sampled_from(sorted(GOOD)))
    content = bytearray(GOOD[name])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        end = place + draw(st.sampled_from([0, 0, 1, 1, 2, 8]))
        content[place:end] = draw(st.sampled_from(PIECES) | st.binary(max_size=4))
    return name, bytes(content)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken() | st.tuples(st.sampled_from(sorted(GOOD)), st.binary(max_size=60)))
@example(("a.yaml", b"? [a]\n: b"))
@example(("a.yaml", b"rows: [{? {a: 1} : 2}]"))
@example(("a.yaml", b"rows:\n- {id: 2024-13-45}"))
def test_whatever_it_is_it_is_rows_or_problems(tmp_path: Path, manifest: tuple[str, bytes]) -> None:
    name, content = manifest
    (tmp_path / name).write_bytes(content)
    try:
        assert open_manifest(str(tmp_path / name), TEXT).rows
    except ManifestError as error:
        assert all(problem.startswith(name) for problem in error.problems)
        assert "Traceback" not in str(error) and "object at 0x" not in str(error)
