# What editors and type checkers are told: the names are imported by what is asked for, which they cannot follow.
from darkroom.api import evaluate as evaluate
from darkroom.api import generate as generate
from darkroom.api import train as train
from darkroom.batch.sample import sample as sample
from darkroom.manifest.problems import ManifestError as ManifestError
from darkroom.models.catalog import open_model as open_model
from darkroom.models.errors import ModelError as ModelError
from darkroom.ray_cluster import ClusterError as ClusterError
from darkroom.runs.reading import open_run as open_run
from darkroom.storage.errors import StorageError as StorageError

__version__: str
