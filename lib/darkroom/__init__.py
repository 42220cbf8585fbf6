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

from darkroom.front_door import front_door

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = front_door(
    __name__,
    {
        "models.catalog": ("open_model",),
        "batch.sample": ("sample",),
        "runs.reading": ("open_run",),
        "api": ("evaluate", "generate", "train"),
        "manifest.problems": ("ManifestError",),
        "models.errors": ("ModelError",),
        "storage.errors": ("StorageError",),
        "ray_cluster": ("ClusterError",),
    },
)
