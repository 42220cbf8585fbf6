"""Measures a model for the gate: the evaluation of `darkroom evaluate`, of each measure the value for each seed.

Candidate and champion are measured by one version of this module, with the same seeds, on the same data, by the same
classifier, in one tick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from darkroom.evaluation.distances import measured
from darkroom.evaluation.network import Sampling, evaluate_network
from darkroom.models.adapter_files import StoredAdapter
from darkroom.models.catalog import open_model
from darkroom.models.classifier import Classifier
from darkroom.models.network import WEIGHTS, Network, read_config
from darkroom.ray_cluster import ClusterError, free
from darkroom.report.evaluation import write_evaluation
from darkroom.retrain.gate_metrics import psnr_name
from darkroom.retrain.schema import Evaluate
from darkroom.storage import StorageError, open_store
from darkroom.training.data import DataSet, read_record
from darkroom.training.recipes.lora import Lora

EVALUATOR = 1  # another number for another meaning of any measure
SAID_SECONDS, SILENCE_SECONDS = 60.0, 3600.0  # that a GPU is waited for, as a training's workers are
MEASURE_SECONDS = (
    6 * 3600.0
)  # that measuring may take once it has a GPU: minutes do, but of a network of the hub's size
TRIES = 3
_NO_ERROR = 200.0  # decibels, in place of an infinity
_WANTS = "that wants 1 CPU and 1 GPU"


def measure(model: str, data: DataSet, options: Evaluate, out: str, classifier: str | None = None) -> dict[str, Any]:
    """Measures the model directory `model` against the data set; the page of the evaluation goes to `out`.

    classifier: the model directory of the judge; default that of MNIST's digits. Returns {"evaluator", "settings",
    "data", "revision", "classifier", "page", "metrics": {name: {"mean", "by_seed", "interval"}}}. Raises ValueError for
    samples that are no finite numbers, or a model or a classifier that does not fit the data.
    """
    network = open_model(model)
    assert isinstance(network, Network), "recipes of networks alone are retrained"
    sampling = Sampling(options.count, options.steps, options.guidance, options.sampler, options.seed)
    judge = Classifier.open(classifier) if classifier else None
    evaluation = evaluate_network(network, data, sampling, lambda line: None, judge)
    write_evaluation(evaluation, out)
    metrics = _by_seed(evaluation.record["measures"]) | {"size": [network.store.size(WEIGHTS)]}
    return {
        "evaluator": EVALUATOR,
        "settings": asdict(sampling),
        "data": {split: evaluation.record["data"][split] for split in ("train", "test")},
        "revision": network.revision,
        "classifier": evaluation.record.get("classifier"),
        "page": out,
        "metrics": {name: measured(values) for name, values in metrics.items()},
    }


def measure_adapter(model: str, data: str) -> dict[str, Any]:
    """Measures the adapter in the folder `model` by its loss on an ingested data set, with noise that is always the
    same, here: what `measure` returns, with a single value of each metric. ValueError, StorageError."""
    from darkroom.training.lora import adapter_loss  # diffusers: seconds, which few pipelines want

    store = open_store(model)
    config = read_config(store)
    fields = {key: value for key, value in config["training"]["recipe"].items() if key != "name"}
    fields |= {"targets": tuple(fields["targets"]), "prior": 0, "prior_prompts": "", "validation": ""}
    loss = adapter_loss(Lora(**fields), model, data)
    metrics = {"validation_loss": [loss], "size": [store.size(config["weights"])]}
    return {
        "evaluator": EVALUATOR,
        "settings": {},
        "data": {"train": read_record(data, "captions")["splits"]["train"]["digest"]},
        "revision": StoredAdapter.at("adapter", model).digest[:16],
        "classifier": None,
        "page": "",
        "metrics": {name: measured(values) for name, values in metrics.items()},
    }


def measure_where_fast(
    model: str, data: DataSet, options: Evaluate, out: str, say: Callable[[str], None], classifier: str | None = None
) -> dict[str, Any]:
    """`measure`, on a GPU of the joined cluster if it has any, else here: the machine of a scheduler rarely has one.

    Raises what `measure` raises, and ClusterError where no GPU becomes free, or those that are there keep being lost,
    or measuring comes to no end.
    """
    import ray

    if not ray.is_initialized() or ray.cluster_resources().get("GPU", 0) < 1:
        return measure(model, data, options, out, classifier)
    # Not by Ray's own retries: a second try may find no GPU left, and would wait for one without end.
    task, pictures = ray.remote(num_cpus=1, num_gpus=1, max_retries=0)(_measure_in_two), ray.put(data)
    for _ in range(TRIES):
        try:
            parts = task.remote(model, pictures, options, out, classifier)
            _await_begin(parts, say)
            return _await_end(parts)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, (ValueError, StorageError)):
                raise error.cause from None
            raise ClusterError(f"a model could not be measured: {_in_a_line(error.cause or error)}") from error
        except ray.exceptions.RayError as error:
            lost = error
    raise ClusterError(f"the worker that measures a model was lost {TRIES} times: {_in_a_line(lost)}") from lost


def _measure_in_two(
    model: str, data: DataSet, options: Evaluate, out: str, classifier: str | None
) -> Iterator[dict[str, Any] | None]:
    """Nothing, as soon as it has a GPU; then what it measures."""
    yield None
    yield measure(model, data, options, out, classifier)


def _await_begin(parts: Any, say: Callable[[str], None]) -> None:
    """Until the first part is there. ClusterError where there is no GPU for it in all the time it may take."""
    import ray

    if not ray.wait([parts], timeout=SAID_SECONDS)[0]:
        say(f"no GPU is free to measure a model, waiting for up to {SILENCE_SECONDS:.0f} s; {_WANTS}; {free()}")
        if not ray.wait([parts], timeout=SILENCE_SECONDS - SAID_SECONDS)[0]:
            ray.cancel(parts, force=True)
            raise ClusterError(
                f"no GPU became free to measure a model within {SILENCE_SECONDS:.0f} s; {_WANTS}; {free()}"
            )
    ray.get(next(parts))


def _await_end(parts: Any) -> dict[str, Any]:
    """The second part. ClusterError where it does not come in all the time it may take."""
    import ray

    if not ray.wait([parts], timeout=MEASURE_SECONDS)[0]:
        ray.cancel(parts, force=True)
        raise ClusterError(f"a model was not measured within {MEASURE_SECONDS:.0f} s of its beginning; it was ended")
    return ray.get(next(parts))


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


def _by_seed(measures: Mapping[str, Any]) -> dict[str, list[float]]:
    """The values of each metric of the gate, from what an evaluation measured."""
    if "psnr" in measures:
        return {
            psnr_name(line["sigma"]): [_NO_ERROR if value is None else value for value in line["denoised_by_seed"]]
            for line in measures["psnr"]
        }
    near = measures["nearest_training_picture"]
    found = {
        "nearest_training_picture": near["mean_by_seed"],
        "nearest_training_minimum": near["minimum_by_seed"],
        **{name: measures[name]["by_seed"] for name in ("seconds_per_sample", "validation_loss")},
        **{name: measures[name]["by_seed"] for name in ("frechet_distance", "precision", "recall") if name in measures},
    }
    if accuracy := measures.get("class_accuracy"):
        found |= {"class_accuracy": accuracy["by_seed"], "worst_class_accuracy": accuracy["worst_by_seed"]}
    return found
