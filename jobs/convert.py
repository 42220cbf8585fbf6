"""Make a manifest of a list of prompts as it is shared: .txt, .tsv, .csv, .json, .jsonl, also .gz.

    darkroom convert prompts.txt --out jobs.jsonl --default task=text_to_image
    darkroom convert DrawBench.csv --out jobs.jsonl --default task=text_to_image --column Prompts=prompt
    python jobs/convert.py diffusers.json --out jobs.jsonl --default guidance=5 --column num_inference_steps=steps

A column that is no key of a manifest, and that no --column names, is left out, and said. Exit codes: 0 done; 2 the list
or an argument is wrong; 3 storage failed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli


def main(
    source: Annotated[str, typer.Argument(help="the list, a path or s3:// uri")],
    out: Annotated[str, typer.Option(help="the manifest, a path or s3:// uri that ends in .jsonl")],
    default: Annotated[list[str] | None, typer.Option(help="key=value, of rows that name no other; repeatable")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="column=key, what a column is called here; repeatable")
    ] = None,
) -> None:
    """Make a manifest of a list of prompts."""
    with cli.exit_codes():
        from darkroom.manifest.prompt_lists import convert
        from darkroom.phases import plural

        converted = convert(source, out, default or (), column or ())
        print(f"{plural(converted.rows, 'row')} in {out}")
        for name, count in converted.left_out.items():
            print(f"  left out: {name!r}, of {plural(count, 'row')}")


if __name__ == "__main__":
    typer.run(main)
