"""What a finished export says of itself: README.md, the data card, with the front matter that `datasets` and the hub
read, and croissant.json, the same for programs (Croissant 1.0, mlcommons.org/croissant)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from darkroom.export.plan import ExportOptions, Facts, Plan
from darkroom.export.shards import FLAT, SCHEMA, SUFFIX, Receipt
from darkroom.phases import plural
from darkroom.storage import Store

# Of models by their names in a run's record: the licence, by the hub's name for it. It binds who uses their pictures.
LICENCES = {
    "if-xs": "apache-2.0",
    "sd-xs": "apache-2.0",
    **dict.fromkeys(("deepfloyd-xl", "deepfloyd-l", "deepfloyd-m"), "deepfloyd-if-license"),
    **dict.fromkeys(("sd15", "sd15-inpaint"), "creativeml-openrail-m"),
    **dict.fromkeys(("sd2", "sdxl"), "openrail++"),
}
CARDS = ("croissant.json", "README.md")  # README.md last: an export that has one is whole
_SHOWN = 200  # letters of a prompt
_MEDIA = {"webdataset": "application/x-tar", "imagefolder": "application/jsonlines"}
_DTYPES = {pa.string(): "string", pa.int32(): "int32", pa.int64(): "int64", pa.float64(): "float64"}
_SCHEMA_ORG = {"int32": "sc:Integer", "int64": "sc:Integer", "float64": "sc:Float", "": "sc:DateTime"}
_LOAD = {
    "webdataset": 'import webdataset\n\nrows = webdataset.WebDataset("data/{split}-00000.tar").decode("pil")',
    "parquet": 'import pandas\n\nrows = pandas.read_parquet("data")  # `image` holds the PNG file',
}
_HOW_MADE = """\
Pictures sampled by a diffusion model, in a batch by Darkroom: none is a photograph, and no person in one exists.
`parameters` is a row of a manifest, as JSON: the same row, model revision and version make the same picture again.
`dhash` is a perceptual hash: pictures that look alike differ in few of its 64 bits."""
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def write_cards(
    out: Store, options: ExportOptions, plan: Plan, record: Mapping[str, Any], receipts: Sequence[Receipt]
) -> None:
    """record: the run's run.json."""
    name = out.root.rstrip("/").rpartition("/")[2]
    described = croissant(name, options, plan.facts, record, receipts)
    texts = (json.dumps(described, indent=2, ensure_ascii=False), card(name, options, plan.facts, record, receipts))
    for key, text in zip(CARDS, texts, strict=True):
        out.write(key, text.encode())


def card(
    name: str, options: ExportOptions, facts: Facts, record: Mapping[str, Any], receipts: Sequence[Receipt]
) -> str:
    """The data card. What users wrote stands in blocks of code alone: it cannot be markup."""
    model = record["model"]
    load = _LOAD.get(options.format, 'import datasets\n\nrows = datasets.load_dataset(".")')
    split = next(iter(facts.splits))
    return f"""---
{_front_matter(options, facts, receipts)}---

# {name}

{_HOW_MADE}

| what | |
|---|---|
| model | `{model["name"]}`, revision `{model["revision"]}` |
| licence of the model | {_licence(model["name"])} |
| licence of this data set | {options.licence or "not stated"} |
| rows | {", ".join(f"{count:,} {split}" for split, count in facts.splits.items())} |
| tasks | {", ".join(f"{count:,} {task}" for task, count in sorted(facts.tasks.items()))} |
| sizes | {_sizes(facts)} |
| seeds | {facts.seeds:,} different, {facts.least_seed} to {facts.most_seed} |
| prompts | {facts.prompts:,} different |
| look alike | {_alike(receipts)} |
| files | {plural(len(receipts), "shard")}, {sum(receipt.bytes for receipt in receipts):,} bytes |
| made with | {_made_with(record)} |

```python
{load.format(split=split)}
```

{_condition(options)}Some of the prompts:

{_prompts(facts)}
"""


def _front_matter(options: ExportOptions, facts: Facts, receipts: Sequence[Receipt]) -> str:
    rows = sum(facts.splits.values())
    told: dict[str, Any] = {"license": options.licence} if options.licence else {}
    told |= {
        "task_categories": ["text-to-image"],
        "tags": ["synthetic", "diffusion", "darkroom"],
        "size_categories": [_size_category(rows)],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": _glob(options, split)} for split in facts.splits],
            }
        ],
    }
    if options.format == "webdataset":  # else a reader guesses from the first five rows, where much may be absent
        told["dataset_info"] = {"features": _webdataset_features()}
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def _size_category(rows: int) -> str:
    """Of the hub's own, each ten times the one before: it takes no other."""
    ends = [f"{digits}{unit}" for unit in "KMB" for digits in (1, 10, 100)]
    place = len(str(rows)) - 3  # powers of ten above a thousand
    return f"n<{ends[0]}" if place < 1 else f"{ends[place - 1]}<n<{ends[place]}"


def _glob(options: ExportOptions, split: str) -> str:
    return f"{split}/**" if options.format == "imagefolder" else f"data/{split}-*{SUFFIX[options.format]}"


def _webdataset_features() -> list[dict[str, Any]]:
    parts = [{"name": "png", "dtype": "image"}, {"name": "txt", "dtype": "string"}]
    parts += [{"name": "json"} | _feature(pa.struct(list(SCHEMA)))]
    return [*parts, {"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A type as `datasets` writes it; dates are texts in JSON."""
    if pa.types.is_struct(kind):
        return {"struct": [{"name": part.name} | _feature(part.type) for part in kind]}
    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("struct") or inner.get("dtype") or inner}
    return {"dtype": _DTYPES.get(kind, "string")}


def _licence(model: str) -> str:
    return LICENCES.get(model, "see the model's own card")


def _made_with(record: Mapping[str, Any]) -> str:
    packages = {"darkroom": record.get("code", "?")} | record.get("packages", {})
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _sizes(facts: Facts) -> str:
    shown = [f"{count:,} of {width} x {height}" for (width, height), count in facts.sizes.most_common(5)]
    more = len(facts.sizes) - len(shown)
    return ", ".join(shown) + (f" and {more:,} other sizes" if more else "")


def _alike(receipts: Sequence[Receipt]) -> str:
    hashes = np.concatenate([np.frombuffer(bytes.fromhex(receipt.dhashes), np.uint64) for receipt in receipts])
    different, counts = np.unique(hashes, return_counts=True)
    rows = int(counts[counts > 1].sum())
    return (
        f"{rows:,} of {plural(len(hashes), 'row')} share their `dhash` with another; {len(different):,} are different"
    )


def _condition(options: ExportOptions) -> str:
    return f"Of the run's rows, those for which\n\n{_block([options.where])}\n\n" if options.where else ""


def _prompts(facts: Facts) -> str:
    return _block([text[:_SHOWN] for text in facts.examples]) if facts.examples else "(none has one)"


def _block(lines: Sequence[str]) -> str:
    """Lines of code by their indentation: no fence that a text could end. A text has no line of its own to break."""
    return "\n".join("    " + " ".join(line.split()) for line in lines)


def croissant(
    name: str, options: ExportOptions, facts: Facts, record: Mapping[str, Any], receipts: Sequence[Receipt]
) -> dict[str, Any]:
    """Croissant's description: each file with its digest, and by split what a row holds. Paths are relative to it."""
    told = {"license": options.licence} if options.licence else {}
    told |= {"url": f"https://huggingface.co/datasets/{options.push}"} if options.push else {}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{plural(sum(facts.splits.values()), 'picture')} of {record['model']['name']}. {_HOW_MADE}",
        **told,
        "version": "1.0.0",
        "datePublished": str(record["created_at"])[:10],
        "distribution": [part for split in facts.splits for part in _distribution(options, split, receipts)],
        "recordSet": [_record_set(options, split) for split in facts.splits],
    }


def _distribution(options: ExportOptions, split: str, receipts: Sequence[Receipt]) -> list[dict[str, Any]]:
    media = _MEDIA.get(options.format, "application/x-parquet")
    files = [
        {
            "@type": "cr:FileObject",
            "@id": receipt.file,
            "name": receipt.name,
            "contentUrl": receipt.file,
            "encodingFormat": media,
            "sha256": receipt.sha256,
        }
        for receipt in receipts
        if receipt.split == split
    ]
    kind = {"@type": "cr:FileSet", "@id": f"{split}-files", "name": f"{split}-files"}
    if options.format == "webdataset":
        inside = [{"@id": file["@id"]} for file in files]
        return [*files, kind | {"containedIn": inside, "includes": "*.png", "encodingFormat": "image/png"}]
    pattern = f"{split}/*/metadata.jsonl" if options.format == "imagefolder" else _glob(options, split)
    return [*files, kind | {"includes": pattern, "encodingFormat": media}]


def _record_set(options: ExportOptions, split: str) -> dict[str, Any]:
    files = {"fileSet": {"@id": f"{split}-files"}}
    image = files | {"extract": {"fileProperty": "content"}}
    fields = [_field(split, "file_name", "sc:Text", files | {"extract": {"fileProperty": "filename"}})]
    if options.format != "webdataset":
        names = FLAT if options.format == "imagefolder" else [field.name for field in SCHEMA if _is_flat(field.type)]
        fields = [_column(split, SCHEMA.field(name), files) for name in names]
        image = files | {"extract": {"column": "image"}}
        if options.format == "huggingface":
            image |= {"transform": {"jsonPath": "bytes"}}
    if options.format != "imagefolder":
        fields.insert(0, _field(split, "image", "sc:ImageObject", image))
    return {"@type": "cr:RecordSet", "@id": split, "name": split, "field": fields}


def _column(split: str, column: pa.Field, files: Mapping[str, Any]) -> dict[str, Any]:
    listed = pa.types.is_list(column.type)
    kind = _DTYPES.get(column.type.value_type if listed else column.type, "")
    field = _field(split, column.name, _SCHEMA_ORG.get(kind, "sc:Text"), {**files, "extract": {"column": column.name}})
    return field | ({"repeated": True} if listed else {})


def _field(split: str, name: str, kind: str, source: Mapping[str, Any]) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": f"{split}/{name}", "name": name, "dataType": kind, "source": source}


def _is_flat(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_list(kind) else kind
    return not pa.types.is_nested(inner)
