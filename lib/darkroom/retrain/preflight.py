"""What can be known to go wrong before a night's training begins."""

from __future__ import annotations

from typing import Any

from darkroom.batch.generate import abilities
from darkroom.evaluation.digit_judge import why_not_judged
from darkroom.manifest import open_manifest
from darkroom.models.network import Network
from darkroom.retrain.gate_metrics import METRICS
from darkroom.retrain.schema import Pipeline
from darkroom.storage import open_store
from darkroom.training.data import load_images, read_record
from darkroom.training.network_training import describe
from darkroom.training.recipes.network import NetworkRecipe


def check_fit(pipeline: Pipeline, recipe: NetworkRecipe, data: str) -> dict[str, Any]:
    """ValueError where the gate asks for what cannot be measured on this data, or a manifest for what the model that is
    to be trained cannot do. Nothing is trained yet."""
    record = read_record(data)
    recipe.check(record)
    asked = [metric for metric in pipeline.gate if METRICS[metric].judged]
    if asked and (why_not := why_not_judged(load_images(data, "test"))):
        raise ValueError(f"the gate asks for {', '.join(asked)}, which cannot be measured: {why_not}")
    manifests = [pipeline.smoke, pipeline.generate and pipeline.generate.manifest]
    if any(manifests):
        network = Network.from_config(open_store(data), describe(recipe, data, record, steps=1))
        for manifest in filter(None, manifests):
            open_manifest(manifest, abilities(network))
    return {}
