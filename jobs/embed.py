"""Encode a manifest's prompts ahead of time, or bring embeddings that were made elsewhere.

    darkroom embed manifests/course.yaml --model deepfloyd-xl --out s3://bucket/embeddings
    darkroom embed --import prompts.pth --model deepfloyd-xl --out s3://bucket/embeddings
    darkroom generate manifests/course.yaml --model deepfloyd-xl --embeddings s3://bucket/embeddings --out runs/course
    python jobs/embed.py manifests/demo.yaml --model if-xs --out embeddings

A file to import is a dictionary {prompt: tensor [1, 77, 4096] or [77, 4096]} as torch.save writes it, and is read as
data alone. The same command again encodes only what is missing. Exit codes: 0 done; 2 the manifest, the file or an
argument is wrong; 3 storage or the cluster failed.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from darkroom import cli


def main(
    out: Annotated[str, typer.Option(help="the folder or s3://bucket/prefix that gets embeddings/")],
    model: Annotated[str, typer.Option(help="a model's name, folder or s3:// uri: whose text encoders")],
    manifest: Annotated[str | None, typer.Argument(help="rows whose prompts to encode: .jsonl, .csv, ...")] = None,
    imported: Annotated[str | None, typer.Option("--import", help="a file of torch.save: {prompt: embedding}")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="as generate's; default: the model's own on GPUs, else float32; of imports all")
    ] = None,
    stall_seconds: Annotated[float, typer.Option(min=1, help="give up after so long without a prompt")] = 300,
    address: Annotated[
        str | None, typer.Option(help="a Ray cluster's address; default RAY_ADDRESS, else this machine")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="let Ray talk; show tracebacks")] = False,
) -> None:
    """Encode a manifest's prompts ahead of time, or import their embeddings."""
    with cli.exit_codes(verbose):
        from darkroom.batch.first_look import look_at_rows
        from darkroom.models.model_names import refuse_unknown

        refuse_unknown(model)
        if manifest is not None:
            look_at_rows(manifest)
        from darkroom.batch.prompts import EmbedOptions, embed
        from darkroom.phases import plural

        options = EmbedOptions(
            out=out,
            model=model,
            manifest=manifest,
            imported=imported,
            dtype=dtype,
            stall_seconds=stall_seconds,
            address=address or os.environ.get("RAY_ADDRESS"),
            verbose=verbose,
        )
        print(f"{plural(embed(options), 'prompt has', 'prompts have')} embeddings in {out}")


if __name__ == "__main__":
    cli.run(main)
