"""Measure a model by what it paints: a trained network against a data set, or what paints digits.

    darkroom evaluate runs/mnist-flow-class --data data/mnist --out runs/quality
    darkroom evaluate models/cats --data data/cats --classifier models/cats-classifier --out runs/quality
    darkroom evaluate s3://bucket/model --data s3://bucket/mnist --out s3://bucket/quality --count 2000 --guidance 4
    darkroom evaluate if-xs --out runs/quality
    darkroom evaluate if-xs --out runs/quality --illusions 0 --textures 0
    darkroom evaluate if-xs --out runs/quality --steps 15 --spacing trailing --guidance 5
    darkroom evaluate sd-xs --out runs/quality
    python jobs/evaluate.py runs/mnist-flow-class --data data/mnist --out runs/quality

A network: index.html, samples.png (what was judged wrong is framed) and evaluation.json. Class accuracy, Fréchet
distance, precision and recall are by a classifier: that of MNIST's digits, or of `darkroom train classifier`.
A cascade or a pipeline of painted digits: index.html, contact sheets and quality.json; of a cascade also how many
textures are as asked, and how many anagrams and hybrids read both ways.

Exit codes: 0 done; 2 the model, the data or an argument is wrong; 3 storage failed.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from darkroom import cli
from darkroom.phases import phase, to_stderr

STRIDE = 30


def main(
    model: Annotated[str, typer.Argument(help="an embedded model's name, a model's folder, a network's s3:// uri")],
    out: Annotated[str, typer.Option(help="where the figures go, a folder or s3://bucket/prefix")],
    data: Annotated[str | None, typer.Option(help="the ingested data set a network is measured against")] = None,
    classifier: Annotated[
        str | None, typer.Option(help="that judges a network's pictures; default: that of MNIST's digits")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="of a network for each of 3 seeds 1000; of a cascade 500")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="of a network 50; of a cascade these instead of --stride")
    ] = None,
    spacing: Annotated[
        str | None, typer.Option(help="of a cascade's --steps, as in a manifest: leading, linspace, trailing")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="of a network, as in a manifest: dpmpp_2m, heun, ...")] = None,
    stride: Annotated[int, typer.Option(min=1, help="of a cascade's timesteps; 30 makes 34 steps")] = STRIDE,
    guidance: Annotated[float | None, typer.Option(help="of a network or pipeline 5, of a cascade's stage I 7")] = None,
    seed: Annotated[int, typer.Option(help="of the first picture; the others follow")] = 0,
    illusions: Annotated[
        int | None, typer.Option(min=0, help="anagrams of a cascade, and as many hybrids; default 20, 0 for none")
    ] = None,
    textures: Annotated[
        int | None,
        typer.Option(min=0, help="pictures of stripes, dots, checks, small digits of a cascade; default 100"),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="show tracebacks")] = False,
) -> None:
    """Measure a model by what it paints."""
    with cli.exit_codes(verbose):
        from darkroom.models.model_names import refuse_unknown
        from darkroom.training.data import read_record

        refuse_unknown(model)
        if data is not None:
            read_record(data)
        phase(to_stderr, "importing torch")
        from darkroom.models.catalog import open_model

        opened = open_model(model)
        if opened.kind == "network":
            if data is None:
                raise ValueError(f"{model} is a network: --data wants the data set to measure it against")
            given = {"illusions": illusions, "textures": textures, "spacing": spacing, "stride": stride != STRIDE}
            _refuse("a cascade", f"{model} is a network", given)
            _measure_network(opened, data, out, classifier, (count, steps, guidance, sampler, seed))
            return
        _refuse("a network", f"{model} paints digits", {"data": data, "classifier": classifier, "sampler": sampler})
        if opened.config.get("kind") == "pipeline":  # views and components are of pixels
            why = f"{model} paints latents, which have no views"
            _refuse("a cascade", why, {"illusions": illusions, "textures": textures})
            illusions = textures = 0
        more = 20 if illusions is None else illusions, 100 if textures is None else textures
        _measure_painter(model, out, more, (count or 500, stride, guidance, seed), {"steps": steps, "spacing": spacing})


def _refuse(whose: str, why: str, options: dict[str, Any]) -> None:
    """ValueError for what was given of these: left out of account, it would seem to have been measured with."""
    for name, value in options.items():
        if value:
            raise ValueError(f"--{name} is for {whose}, and {why}")


def _measure_network(opened: Any, data: str, out: str, classifier: str | None, asked: tuple[Any, ...]) -> None:
    from darkroom.evaluation import Sampling, evaluate_network
    from darkroom.models.classifier import Classifier
    from darkroom.report.evaluation import write_evaluation

    count, steps, guidance, sampler, seed = asked
    sampling = Sampling(count or 1000, steps or 50, 5.0 if guidance is None else guidance, sampler, seed)
    judge = Classifier.open(classifier) if classifier else None
    print(write_evaluation(evaluate_network(opened, data, sampling, classifier=judge), out))
    print(f"index.html lies in {out}")


def _measure_painter(
    model: str, out: str, more: tuple[int, int], asked: tuple[Any, ...], steps: dict[str, Any]
) -> None:
    """more: how many illusions and textures."""
    from darkroom.evaluation import sample_and_judge, sample_illusions, sample_textures
    from darkroom.report.cascade import write_cascade_evaluation

    evaluation = sample_and_judge(model, *asked, **steps)
    illusions = sample_illusions(model, more[0], evaluation.settings) if more[0] else None
    textures = sample_textures(model, more[1], evaluation.settings) if more[1] else None
    print(write_cascade_evaluation(evaluation, out, illusions, textures))
    print(f"index.html and quality.json lie in {out}")


if __name__ == "__main__":
    cli.run(main)
