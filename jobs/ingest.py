"""Bring a data set into darkroom's form: Parquet files of pictures and labels, and a dataset.json.

    darkroom ingest mnist --out data/mnist
    darkroom ingest mnist downloads/mnist --out s3://bucket/mnist
    darkroom ingest cifar10 --out data/cifar10
    darkroom ingest cifar10 downloads/cifar-10-python.tar.gz --out s3://bucket/cifar10
    darkroom ingest idx downloads/fashion-mnist --out data/fashion
    darkroom ingest folder photos --out data/photos
    darkroom ingest captions style --out data/style
    darkroom ingest captions photos-of-my-dog --prompt "a photo of sks dog" --out data/dog
    python jobs/ingest.py mnist --out data/mnist

idx: four files named as MNIST's. folder: train/CLASS/*.png and test/CLASS/*.png (or .jpg, .webp), or CLASS/*.png, of
which a tenth becomes the test split; labels are in the order of the names, of the numbers where all names are numbers.
captions: pictures of any size with metadata.jsonl or metadata.csv, whose lines have file_name and text.
Exit codes: 0 done; 2 the data is wrong; 3 storage failed or nothing could be downloaded.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli


def main(
    kind: Annotated[
        str, typer.Argument(help="mnist, cifar10, idx (IDX files), folder (of pictures by class), captions")
    ],
    source: Annotated[
        str | None, typer.Argument(help="folder or s3:// uri of the files; mnist and cifar10 can do without")
    ] = None,
    *,
    out: Annotated[str, typer.Option(help="where the data set goes, a folder or s3://bucket/prefix")],
    per_class: Annotated[int | None, typer.Option(min=1, help="only the first so many of each class")] = None,
    prompt: Annotated[str | None, typer.Option(help="of captions: one for all pictures, in place of metadata")] = None,
) -> None:
    """Bring a data set into darkroom's form."""
    with cli.exit_codes():
        from darkroom.training.ingest import ingest

        record = ingest(kind, source, out, per_class, prompt)
        counts = ", ".join(f"{split['rows']:,} {name}" for name, split in record["splits"].items())
        if record.get("kind") == "captions":
            print(f"{record['name']}: {record['splits']['train']['rows']:,} pictures with captions in {out}")
            return
        classes = record["classes"]
        print(f"{record['name']}: {counts} pictures of {len(classes)} classes in {out}")
        print(f"labels from 0 on: {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}")


if __name__ == "__main__":
    cli.run(main)
