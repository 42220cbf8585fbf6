"""Darkroom: batch image generation and training with diffusion models, on Ray.

open_model(address)             a model by its name or address: what it can do is known before a weight is loaded
sample(model, rows)             pictures of a few rows, in this process
generate(manifest, out)         a run of pictures, on Ray: the command `darkroom generate`
open_run(uri)                   a run to be read: rows as Arrow or pandas, pictures as PIL, a data set
train(recipe, data, out)        a model trained from an ingested data set: `darkroom train`
evaluate(model, data, out)      how good a model is: `darkroom evaluate`
ManifestError, ModelError       what was asked for, or the model, is wrong; both are ValueErrors
StorageError, ClusterError      storage or Ray failed; the same call goes on where it ended

Each name is imported when it is first asked for: `import darkroom` waits for neither torch nor Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darkroom.api import evaluate, generate, train
    from darkroom.batch.sample import sample
    from darkroom.manifest import ManifestError
    from darkroom.models.catalog import open_model
    from darkroom.models.errors import ModelError
    from darkroom.ray_cluster import ClusterError
    from darkroom.runs.reading import open_run
    from darkroom.storage import StorageError

__version__ = "0.1.0"
__all__ = [
    "ClusterError",
    "ManifestError",
    "ModelError",
    "StorageError",
    "evaluate",
    "generate",
    "open_model",
    "open_run",
    "sample",
    "train",
]
_MODULES = {
    "ClusterError": "ray_cluster",
    "ManifestError": "manifest.problems",
    "ModelError": "models.errors",
    "StorageError": "storage.errors",
    "evaluate": "api",
    "generate": "api",
    "open_model": "models.catalog",
    "open_run": "runs.reading",
    "sample": "batch.sample",
    "train": "api",
}


def __getattr__(name: str) -> Any:
    """PEP 562: what is asked for by name is imported then, and stays."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
