"""Make the pictures a manifest asks for.

    darkroom generate --prompt "a red seven" --count 4 --out runs/try
    darkroom generate manifests/demo.yaml --out runs/demo
    darkroom generate jobs.jsonl --out s3://bucket/run --workers 8 --capacity 64
    darkroom generate manifests/course.yaml --model deepfloyd-xl --stage1-workers 2 --stage2-workers 4 --out runs/course
    darkroom generate jobs.jsonl --out runs/try --limit 20 --dry-run
    python jobs/generate.py manifests/demo.yaml --out runs/demo

The same command again makes only what is missing or changed. Exit codes: 0 done; 1 some rows failed; 2 the manifest or
an argument is wrong; 3 storage or the cluster failed.
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from darkroom import cli


def main(
    manifest: Annotated[
        str | None,
        typer.Argument(
            help="rows to make: .jsonl, .parquet, .csv, .tsv, .txt, .json or .yaml, a path or s3:// uri; or -"
        ),
    ] = None,
    *,
    out: Annotated[str, typer.Option(help="the run's folder or s3://bucket/prefix")],
    prompt: Annotated[list[str] | None, typer.Option(help="instead of a manifest; may be repeated")] = None,
    count: Annotated[int | None, typer.Option(min=1, max=100_000, help="pictures of each --prompt; default: 1")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="of the first of them, the others count on; default: 0")
    ] = None,
    model: Annotated[str, typer.Option(help="an embedded model's name, a folder or s3:// uri")] = "if-xs",
    workers: Annotated[
        int | None, typer.Option(min=1, help="engine actors per stage; default: all GPUs, shared out by cost, else 1")
    ] = None,
    stage1_workers: Annotated[int | None, typer.Option(min=1, help="of stage I")] = None,
    stage2_workers: Annotated[int | None, typer.Option(min=1, help="of stage II")] = None,
    stage3_workers: Annotated[int | None, typer.Option(min=1, help="of stage III")] = None,
    capacity: Annotated[str, typer.Option(help="model evaluations per pass; auto: what fits a GPU, else 32")] = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16, float16, fp8, int8; or one per stage; default: the model's own on GPUs"),
    ] = None,
    compile: Annotated[
        Literal["off", "default", "graphs"], typer.Option(help="torch.compile, with CUDA graphs: minutes, then speed")
    ] = "off",
    embeddings: Annotated[str | None, typer.Option(help="where prompts' embeddings lie; default: the run")] = None,
    scorer: Annotated[str | None, typer.Option(help="clip:URI or digits: scores pictures, chooses candidates")] = None,
    safety: Annotated[Literal["off", "flag"], typer.Option(help="flag what IF's safety checker sees")] = "off",
    watermark: Annotated[
        Literal["on", "off"] | None, typer.Option(help="IF's mark; default: on where the model has it")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the manifest's first rows")] = None,
    images: Annotated[
        Literal["objects", "inline", "both"], typer.Option(help="where the picture bytes lie")
    ] = "objects",
    unit_rows: Annotated[int | None, typer.Option(min=1, max=4096, help="rows committed together")] = None,
    stall_seconds: Annotated[
        float, typer.Option(min=1, help="give up after so long without a sign of life, at least")
    ] = 300,
    wait_seconds: Annotated[
        float | None, typer.Option(min=0, help="for a cluster to grow; default: 600 for one that is joined")
    ] = None,
    inputs_root: Annotated[
        list[str] | None,
        typer.Option(help="a folder or s3:// uri that pictures may come from, beside the manifest's; may be repeated"),
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="name=URI of a LoRA file that rows may ask for; may be repeated")
    ] = None,
    control: Annotated[list[str] | None, typer.Option(help="name=URI of a ControlNet likewise")] = None,
    depth: Annotated[str | None, typer.Option(help="a depth model of transformers, for ControlNets of depth")] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="make good rows anew with another model, or give them up for this manifest"),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="read every picture that is there, and make damaged ones anew")
    ] = False,
    rerun: Annotated[
        str, typer.Option(help="failed rows to try again: failed (all), none, or classes of errors: storage,numeric")
    ] = "failed",
    ids: Annotated[str | None, typer.Option(help="a file of ids: make no other rows than these")] = None,
    max_failed_rows: Annotated[
        str | None, typer.Option(help="end the job where more fail: a number of rows, or a share of them: 1%")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="a Ray cluster's address; default RAY_ADDRESS, else this machine")
    ] = None,
    check_inputs: Annotated[
        bool, typer.Option("--check-inputs", help="look at every picture that rows name before anything runs")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and how long it takes")] = False,
    report: Annotated[
        bool | None,
        typer.Option(
            show_default=False, help="draw RUN/report at the end; default: where there are 50,000 rows at most"
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="let Ray talk; show tracebacks")] = False,
) -> None:
    """Make the pictures a manifest asks for; run again, only what is missing or changed."""
    arguments = locals()
    with cli.exit_codes(verbose):
        from darkroom.batch.given_rows import with_manifest
        from darkroom.batch.options import of_command

        asked = of_command(arguments)
        with with_manifest(asked, prompt or (), count, seed, keep=not dry_run) as options:
            if dry_run:  # which says all at once
                from darkroom.batch import generate

                print(generate.describe_work(*generate.dry_run(options)))
                raise typer.Exit(cli.DONE)
            from darkroom.batch.first_look import look
            from darkroom.batch.progress import Progress
            from darkroom.phases import phase, to_stderr

            look(options)
            with Progress() as screen:
                phase(to_stderr, "importing torch")
                from darkroom.batch import generate

                outcome = generate.run(options, progress=screen)
                page = generate.draw(outcome, out, report)
            print(generate.describe(outcome, out), generate.what_next(outcome, out, page), sep="\n")
            raise typer.Exit(cli.FAILED if outcome.failed else cli.DONE)


if __name__ == "__main__":
    cli.run(main)
