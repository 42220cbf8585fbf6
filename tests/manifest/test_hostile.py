"""Whatever a manifest is, it is rows or one error with a sentence for each problem. What is kept of hostile ones, each
with its right answer, its time and its memory: tests/hostile."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from darkroom.manifest import Abilities, ManifestError, open_manifest
from hostile.tables import YAML_ROW, parquet

TEXT = Abilities("if-xs", (24, 48), 48, "text", "diffusion", 1000, upscale=True)
ROW = {"task": "text_to_image", "prompt": "a red seven"}


def row(**more: object) -> str:
    return json.dumps(ROW | more)


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
