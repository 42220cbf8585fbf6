"""What people write and mean otherwise than it would be read: refused, or told, and never made in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from darkroom.manifest import Abilities, Manifest, ManifestError, open_manifest

TEXT = Abilities("if-xs", (24, 48), 48, "text", "diffusion", 1000, upscale=True)
ROW = {"task": "text_to_image", "prompt": "a red seven"}


def opened(folder: Path, name: str, content: str | bytes) -> Manifest:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return open_manifest(str(folder / name), TEXT)


def problems(folder: Path, name: str, content: str | bytes) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        opened(folder, name, content)
    return [problem.removeprefix(f"{name} ") for problem in caught.value.problems]


def written(folder: Path, **columns: pa.Array) -> list[dict]:
    rows = len(next(iter(columns.values())))
    pq.write_table(
        pa.table({"task": ["text_to_image"] * rows, "prompt": ["a"] * rows, **columns}), folder / "a.parquet"
    )
    return [task.canonical() for task in open_manifest(str(folder / "a.parquet"), TEXT).tasks()]


COMMA = "in braces a comma begins the next key; put a text with commas in quotes"


def test_yaml_commas_in_braces(tmp_path: Path) -> None:
    text = """defaults: {task: text_to_image, negative_prompt: blurry, low quality}
rows:
  - {id: a, prompt: a red seven, on white, seed: 1}
  - {id: b, prompt: a red seven, guidance: 7,5}
  - {task: anagram, views: [{view: identity, prompt: a six, on white}]}
  - {id: c, prompt: "a red seven, on white", seed: }
"""
    assert problems(tmp_path, "a.yaml", text) == [
        f"line 1: the key 'low quality' has no value: {COMMA}",
        f"line 3: the key 'on white' has no value: {COMMA}",
        "line 4: the key '5' has no value: in braces a comma begins the next key; a decimal has a point",
        f"line 5: the key 'on white' has no value: {COMMA}",
    ]


@pytest.mark.parametrize("number", ["010", "0010", "-07", "+0_1", "20:30:15", "1:30.5"])
@pytest.mark.parametrize("row", ["{TASK, seed: N}", "{TASK, steps: N}", "{TASK, stage2: {steps: N}}", "{TASK, id: N}"])
def test_yaml_numbers_of_other_bases(number: str, row: str, tmp_path: Path) -> None:
    row = row.replace("TASK", "task: text_to_image, prompt: a").replace("N", number)
    why = "has colons, which YAML reads in base 60" if ":" in number else "begins with 0: YAML reads base 8"
    wanted = f"line 2: the number '{number}' {why}; write it as it is meant, or a text in quotes"
    assert problems(tmp_path, "a.yaml", f"rows:\n- {row}\n") == [wanted]
    assert problems(tmp_path, "b.yaml", f"matrix:\n  {{task: text_to_image, prompt: a, seed: [1, {number}]}}") == [
        wanted
    ]


def test_yaml_numbers_that_are_too_long_to_be_said(tmp_path: Path) -> None:
    number = f"0x{'f' * 4000}"
    wanted = [f"line 2: the number '{number[:57]}...' has 4,002 digits"]
    for row in (f"{{prompt: a, seed: {number}}}", f"{{prompt: {number}}}", f"{{task: {number}}}", number):
        assert problems(tmp_path, "a.yaml", f"rows:\n- {row}\n") == wanted


def test_yaml_numbers_that_are_meant(tmp_path: Path) -> None:
    text = "matrix: {task: text_to_image, prompt: '007', seed: [0, 10, 0x10, 0b11, 1_000], guidance: 0.5}"
    tasks = list(opened(tmp_path, "a.yaml", text).tasks())
    assert [task.seed for task in tasks] == [0, 10, 16, 3, 1000] and tasks[0].prompt == "007"


def test_yaml_comments_that_cut_a_text(tmp_path: Path) -> None:
    text = """rows:
- task: text_to_image
  prompt: a red seven #2 on white
- {task: text_to_image, prompt: "a red seven #2", seed: 1} #2
- {task: text_to_image, prompt: a room # 5
  , seed: 2}
- {task: text_to_image, prompt: a#b, seed: 3}
- task: text_to_image
  prompt: a red nine  # the easy one
"""
    manifest = opened(tmp_path, "a.yaml", text)
    says = "what follows ' #' is a comment and no part of the text before it; quotes would keep it"
    assert manifest.warnings == (f"a.yaml line 3: {says}", f"a.yaml line 5: {says}")
    prompts = ["a red seven", "a red seven #2", "a room", "a#b", "a red nine"]
    assert [task.prompt for task in manifest.tasks()] == prompts


def test_misspelt_keys_without_a_value(tmp_path: Path) -> None:
    meant = "unknown key 'negative_promt', did you mean 'negative_prompt'?"
    assert problems(tmp_path, "a.jsonl", json.dumps(ROW | {"negative_promt": None})) == [f"line 1: {meant}"]
    text = f"rows:\n- {json.dumps(ROW)[:-1]}, negative_promt: }}\n- task: text_to_image\n  prompt: a\n  sed:\n"
    assert problems(tmp_path, "a.yaml", text) == [
        f"row 1: {meant}", "row 2: unknown key 'sed', did you mean 'seed'?",
    ]  # fmt: skip
    column = "none that a task takes, did you mean"
    assert problems(tmp_path, "a.csv", "task,prompt,promt,sed\ntext_to_image,a,,\n") == [
        "line 1: the column 'promt' is none that a task takes",
        f"line 1: the column 'sed' is {column} 'seed'?",
    ]
    view = {"task": "anagram", "views": [{"view": "identity", "promt": None}]}
    assert problems(tmp_path, "b.jsonl", json.dumps(view)) == [
        "line 1: view 1: unknown key 'promt', did you mean 'prompt'?"
    ]
    with pytest.raises(ManifestError, match=f"a.parquet: the column 'sed' is {column} 'seed'?"):
        written(tmp_path, sed=pa.array([None], pa.int64()))


def test_keys_of_other_tasks_and_parts_may_be_null(tmp_path: Path) -> None:
    """As a table of many tasks has them."""
    rows = [
        ROW | {"mask": None, "views": None},
        {"task": "anagram", "views": [{"view": "skew", "prompt": "a", "pieces": None}]},
    ]
    assert opened(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))).rows == 2


@pytest.mark.parametrize("seed", ["9007199254740992.0", "9007199254740993.0", "1.8446744073709552e19", "-1e300"])
def test_seeds_that_were_rounded(seed: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "a.jsonl", f'{{"task": "text_to_image", "prompt": "a", "seed": {seed}}}')
    assert problem.startswith("line 1: 'seed' must be written as a whole number: as a decimal one it was rounded")


def test_seeds_of_pandas_and_of_spreadsheets(tmp_path: Path) -> None:
    exact = [2.0**53 - 1, 7.0, None]
    assert [row["seed"] for row in written(tmp_path, seed=pa.array(exact), size=pa.array([24, 24, 24]))] == [
        2**53 - 1, 7, 0,
    ]  # fmt: skip
    with pytest.raises(ManifestError, match="a.parquet row 2: 'seed' must be written as a whole number"):
        written(tmp_path, seed=pa.array([1.0, 2.0**53]))
    assert problems(tmp_path, "a.csv", "task,prompt,seed\ntext_to_image,a,1.23457E+15\n") == [
        "line 2: 'seed' is '1.23457E+15': a spreadsheet's way to show a rounded number; wanted all of its digits"
    ]
    whole = opened(tmp_path, "b.jsonl", json.dumps(ROW | {"seed": 2**63 - 1}))
    assert [task.seed for task in whole.tasks()] == [2**63 - 1]


def test_floats_of_few_bits_are_their_shortest_decimals(tmp_path: Path) -> None:
    for kind in (pa.float32(), pa.float16()):
        guidance = pa.array([7.1, 7.5, None]).cast(kind, safe=False)
        assert [row["guidance"] for row in written(tmp_path, guidance=guidance, seed=[1, 2, 3])] == [7.1, 7.5, 7]
    views = [[{"view": "skew", "prompt": "a", "factor": 1.7}, {"view": "identity", "prompt": "b"}]]
    part = pa.struct([("view", pa.string()), ("prompt", pa.string()), ("factor", pa.float32())])
    table = pa.table({"task": ["anagram"], "views": pa.array(views, pa.list_(part))})
    pq.write_table(table, tmp_path / "b.parquet")
    (task,) = open_manifest(str(tmp_path / "b.parquet"), TEXT).tasks()
    assert task.canonical()["views"][0]["factor"] == 1.7


def test_bytes_that_stand_for_texts(tmp_path: Path) -> None:
    """Some writers do not say that a column is text. Two of one id would pass, and one of them be lost."""
    views = [None, [{"view": b"identity", "prompt": "ü".encode()}]]
    columns = {"id": [b"a", b"b"], "task": [b"text_to_image", b"anagram"], "prompt": [b"c", None], "views": views}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    first, second = open_manifest(str(tmp_path / "a.parquet"), TEXT).tasks()
    assert (first.id, first.prompt, second.views[0].prompt) == ("a", "c", "ü")
    pq.write_table(pa.table({"id": [b"a", b"a"], "prompt": [b"c", b"d"]}), tmp_path / "b.parquet")
    with pytest.raises(ManifestError, match="row 2: the id 'a' is given twice, first in b.parquet row 1"):
        open_manifest(str(tmp_path / "b.parquet"), TEXT)
    pq.write_table(pa.table({"id": [b"a", b"\xff"], "prompt": [b"c", b"d"]}), tmp_path / "c.parquet")
    with pytest.raises(ManifestError, match="row 2: 'id' keys and texts must be valid Unicode"):
        open_manifest(str(tmp_path / "c.parquet"), TEXT)


def test_strength_that_rounds_to_no_step(tmp_path: Path) -> None:
    row = {"task": "image_to_image", "prompt": "a", "image": "a.png", "steps": 10}
    rows = [row | {"strength": strength, "seed": seed} for seed, strength in enumerate((0.01, 0.1, 0, 0.09))]
    warnings = opened(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))).warnings
    assert [warning for warning in warnings if "strength" in warning] == [
        "a.jsonl line 1: 'strength' 0.01 of 10 steps is none of them: the picture stays as it is given",
        "a.jsonl line 4: 'strength' 0.09 of 10 steps is none of them: the picture stays as it is given",
    ]


SPREADSHEETS = {
    "task;prompt\ntext_to_image;a\n": "line 1: the columns are separated by ';', wanted commas",
    '\ufefftask;prompt\r\ntext_to_image;"a, b"\r\n': "line 1: the columns are separated by ';', wanted commas",
    "task\tprompt\ntext_to_image\ta\n": (
        "line 1: the columns are separated by tabs, wanted commas, or a name that ends in .tsv"
    ),
    "sep=,\ntask,prompt\ntext_to_image,a\n": "line 1: 'sep=' is for a spreadsheet alone: take this line out",
    ",task,prompt\n0,text_to_image,a\n": (
        "line 1: the first column has no name; an index that pandas wrote is left out by index=False"
    ),
    "Task,prompt\ntext_to_image,a\n": "line 1: the column 'Task' is none that a task takes, did you mean 'task'?",
    "task,Prompts\ntext_to_image,a\n": "line 1: the column 'Prompts' is none that a task takes, did you mean 'prompt'?",
    "task,prompt,cfg_scale\ntext_to_image,a,7\n": (
        "line 1: the column 'cfg_scale' is none that a task takes, did you mean 'guidance'?"
    ),
}


@pytest.mark.parametrize("text", SPREADSHEETS)
def test_what_spreadsheets_write(text: str, tmp_path: Path) -> None:
    assert problems(tmp_path, "a.csv", text) == [SPREADSHEETS[text]]


def test_other_encodings(tmp_path: Path) -> None:
    text = "task,prompt\ntext_to_image,a red seven\ntext_to_image,a café\n"
    not_utf8 = "line 3: cannot be read from here on: is not UTF-8: byte 20 is 0xe9 (in Windows-1252 it would be é)"
    assert problems(tmp_path, "a.csv", text.encode("cp1252"))[0].startswith(not_utf8)
    assert "UTF-16, wanted UTF-8" in problems(tmp_path, "b.csv", text.encode("utf-16"))[0]
    row = json.dumps(ROW | {"prompt": "a café"}, ensure_ascii=False)
    assert "line 1: is not UTF-8: byte 43 is 0xe9" in problems(tmp_path, "a.jsonl", row.encode("cp1252"))[0]
    assert problems(tmp_path, "b.jsonl", row.encode("utf-16"))[0] == "b.jsonl: the text is UTF-16, wanted UTF-8"
    (problem,) = problems(tmp_path, "a.yaml", f"rows: [{row}]".encode("cp1252"))
    assert problem.startswith("a.yaml: not YAML: ") and problem.endswith("wanted text in UTF-8")


def test_empty_rows_and_old_line_ends_of_a_spreadsheet(tmp_path: Path) -> None:
    rows = ["task,prompt,seed", "text_to_image,a,1", ",,", "text_to_image,b,2", ",,"]
    for end in ("\n", "\r\n", "\r"):
        assert [task.seed for task in opened(tmp_path, "a.csv", end.join([*rows, ""])).tasks()] == [1, 2]


def test_an_index_that_pandas_wrote_into_parquet(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match="'__index_level_0__' is an index that pandas wrote; index=False leaves it out"
    ):
        written(tmp_path, __index_level_0__=pa.array([0]))


NO_PATHS = [
    "https://example.org/a.png", "gs://b/a.png", "C:\\pics\\a.png", "~/a.png", "data:image/png;base64,AAAA",
    "s3a://b/k.png", "s3:/b/k.png", "\\\\server\\a.png",
]  # fmt: skip


@pytest.mark.parametrize("image", NO_PATHS)
def test_pictures_that_no_worker_can_read(image: str, tmp_path: Path) -> None:
    rows = [
        {"task": "image_to_image", "prompt": "a", "strength": 0.5, "image": image},
        {"task": "inpaint", "prompt": "a", "image": "a.png", "mask": image},
        {
            "task": "hybrid",
            "components": [{"component": "low_pass", "image": image}, {"component": "high_pass", "prompt": "a"}],
        },
    ]
    must = f"must be a path, file:///path or s3://bucket/key, which workers can read, was {image!r}"
    assert problems(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))) == [
        f"line 1: 'image' {must}", f"line 2: 'mask' {must}", f"line 3: component 1: 'image' {must}",
    ]  # fmt: skip


@pytest.mark.parametrize("image", ["IMG_1.HEIC", "s3://b/photo.heif", "logo.svg", "clip.mp4"])
def test_pictures_of_a_kind_that_is_not_read(image: str, tmp_path: Path) -> None:
    row = {"task": "image_to_image", "prompt": "a", "strength": 0.5, "image": image}
    (problem,) = problems(tmp_path, "a.jsonl", json.dumps(row))
    kind = image[image.rindex(".") :]
    assert (
        problem == f"line 1: 'image' must be a PNG, JPEG, WebP, TIFF, GIF or BMP, as {kind} is not read, was {image!r}"
    )


@pytest.mark.parametrize(
    "image", ["a.png", "../b/12:30.png", "s3://b/k.png", "file:///tmp/a.jpg", "/tmp/a b.webp", "a~b.png"]
)
def test_pictures_that_are_paths(image: str, tmp_path: Path) -> None:
    row = {"task": "image_to_image", "prompt": "a", "strength": 0.5, "image": image}
    assert [task.image for task in opened(tmp_path, "a.jsonl", json.dumps(row)).tasks()] == [image]


def test_keys_of_urls_are_not_told(tmp_path: Path) -> None:
    secret = "hunter2"
    row = {"task": "image_to_image", "prompt": "a", "strength": 0.5}
    for image in (f"https://user:{secret}@example.org/a.png", f"https://example.org/a.png?X-Amz-Signature={secret}"):
        (problem,) = problems(tmp_path, "a.jsonl", json.dumps(row | {"image": image}))
        assert secret not in problem and "example.org/a.png" in problem
    for uri in (f"https://user:{secret}@example.org/a.jsonl", f"https://example.org/a.jsonl?sig={secret}"):
        with pytest.raises(ManifestError) as caught:
            open_manifest(uri, TEXT)
        assert secret not in str(caught.value)
