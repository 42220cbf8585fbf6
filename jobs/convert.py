"""Make a manifest of a list of prompts as it is shared (.txt, .tsv, .csv, .json, .jsonl, also .gz), or a model's folder
of a single file of weights (.safetensors).

    darkroom convert prompts.txt --out jobs.jsonl --default task=text_to_image
    darkroom convert DrawBench.csv --out jobs.jsonl --default task=text_to_image --column Prompts=prompt
    darkroom convert dreamy.safetensors --like sd15 --out models/dreamy
    python jobs/convert.py diffusers.json --out jobs.jsonl --default guidance=5 --column num_inference_steps=steps

A column that is no key of a manifest, and that no --column names, is left out, and said. --like is a model of the same
family (sd15, sd15-inpaint, sd2, sdxl, or the folder of one), whose configurations, tokenizers and scheduler it gets.
Exit codes: 0 done; 2 the file or an argument is wrong; 3 storage failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from darkroom import cli


def main(
    source: Annotated[str, typer.Argument(help="the list, a path or s3:// uri; or a .safetensors file")],
    out: Annotated[str, typer.Option(help="the manifest, a path or s3:// uri that ends in .jsonl; or a new folder")],
    default: Annotated[list[str] | None, typer.Option(help="key=value, of rows that name no other; repeatable")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="column=key, what a column is called here; repeatable")
    ] = None,
    like: Annotated[str | None, typer.Option(help="of weights: a model of their family, by name or address")] = None,
) -> None:
    """Make a manifest of a list of prompts, or a model of a single file of weights."""
    with cli.exit_codes():
        if like is not None:
            from darkroom.models.catalog import open_pipeline
            from darkroom.models.checkpoint_files import convert_checkpoint

            convert_checkpoint(Path(source), open_pipeline(like), Path(out))
            print(f"the model in {out}")
            return
        if source.endswith((".safetensors", ".ckpt")):
            raise ValueError(f"{source} holds weights: say by --like which model it is like, such as sd15 or sdxl")
        from darkroom.manifest.prompt_lists import convert
        from darkroom.phases import plural

        converted = convert(source, out, default or (), column or ())
        print(f"{plural(converted.rows, 'row')} in {out}")
        for name, count in converted.left_out.items():
            print(f"  left out: {name!r}, of {plural(count, 'row')}")


if __name__ == "__main__":
    cli.run(main)
