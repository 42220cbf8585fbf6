"""What can be known to go wrong before a night's training begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from darkroom.evaluation.recognition import why_not_judged
from darkroom.manifest import open_manifest
from darkroom.models.catalog import abilities
from darkroom.models.classifier import Classifier, mnist_classifier
from darkroom.models.network import Network, read_config
from darkroom.models.registry import RegisteredModel
from darkroom.retrain.gate_metrics import METRICS, Kind, network_kind
from darkroom.retrain.schema import Pipeline
from darkroom.storage import open_store
from darkroom.training.data import DataSet, read_record
from darkroom.training.network_training import describe
from darkroom.training.recipes.lora import Lora
from darkroom.training.recipes.network import NetworkRecipe
from darkroom.training.recipes.recipe import Recipe


def check_fit(pipeline: Pipeline, recipe: Recipe, data: str, load: Callable[[str], DataSet]) -> dict[str, Any]:
    """ValueError where the gate asks for what cannot be measured on this data or of the champion, the classifier does
    not know it, or a manifest asks for what the model that is to be trained cannot do. Nothing is trained yet.

    load: reads the data set at a uri, whole; it is asked for only where a classifier is to judge.
    """
    record = read_record(data, recipe.reads)
    recipe.check(record)
    _check_champion(pipeline, recipe)
    manifests = [pipeline.smoke, pipeline.generate and pipeline.generate.manifest]
    if isinstance(recipe, Lora):
        able = replace(abilities(recipe.opened()), adapters=(pipeline.name,))
        for manifest in filter(None, manifests):
            open_manifest(manifest, able)
        return {}
    assert isinstance(recipe, NetworkRecipe), "the pipeline file was checked"
    _check_classifier(pipeline, data, load)
    if any(manifests):
        network = Network.from_config(open_store(data), describe(recipe, data, record, steps=1))
        for manifest in filter(None, manifests):
            open_manifest(manifest, abilities(network))
    return {}


def _check_champion(pipeline: Pipeline, recipe: Recipe) -> None:
    model = RegisteredModel(pipeline.registry, pipeline.name)
    champion = model.champion()
    if champion is None or champion.version is None:
        return
    kind = _kind(read_config(open_store(model.folder(champion.version))))
    wanted = [metric for metric in pipeline.gate if kind not in METRICS[metric].of]
    if wanted or (kind == "adapter") != isinstance(recipe, Lora):
        said = f" and has no {', '.join(wanted)} to be held against" if wanted else ""
        raise ValueError(
            f"the champion {model.name}@{champion.version} is another kind of model than {recipe.name} trains{said}; "
            "give the pipeline another name"
        )


def _kind(config: Mapping[str, Any]) -> Kind:
    """Of a model, by its config.json."""
    if config["kind"] == "adapter":
        return "adapter"
    return network_kind(config["process"], config["network"])


def _check_classifier(pipeline: Pipeline, data: str, load: Callable[[str], DataSet]) -> None:
    judged = [metric for metric in pipeline.gate if METRICS[metric].judged]
    if pipeline.classifier is not None:
        if problem := why_not_judged(Classifier.open(pipeline.classifier), load(data)):
            raise ValueError(f"the pipeline's classifier cannot judge its data: {problem}")
    elif judged and (problem := why_not_judged(mnist_classifier(), load(data))):
        raise ValueError(
            f"the gate asks for {', '.join(judged)}, which cannot be measured: {problem}; `darkroom train classifier` "
            "trains one that does, for the pipeline's 'classifier'"
        )
