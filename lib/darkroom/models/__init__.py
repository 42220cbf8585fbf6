"""What answers: models by name or address, and all that is known of one before a weight is read. By module:

catalog            `open_model`, `address`: an embedded model, a folder, a bucket, the hub, a registry
errors             `ModelError`: what can be wrong with a model that a user names
network, cascade   `Network`, `Cascade`: the two kinds; `build_network`, `save_network`, `sample`, `sampling_row`
classifier         `Classifier`, `mnist_classifier`: the judges of pictures
registry           `RegisteredModel`: versions of a model, and which of them is the champion
registration       `add`, `promote`: a model put into a registry, and made its champion, by hand
scorers            `Scorer`, `open_scorer`: how well pictures answer their prompts
sources            `Source`, `open_source`: a model's files, wherever they lie
weights            `check_dtype`, `load_module`, `read_header`, `read_tensor`: safetensors, whole or in part
memory             `Memory`, `size_text`: what a stage will need of a device
node_cache         `remember`: what a machine finds out once for all of its processes
here               `DTYPES`, `EIGHT_BITS`, `WEIGHT_DTYPES`, `Mode`, `MOST_ADAPTERS`, `lacks_library`: what is known
                   before torch is
"""

from importlib.util import find_spec
from typing import Literal

from darkroom.front_door import front_door

# Known before torch is.
DTYPES = ("float32", "bfloat16", "float16")  # that models may compute in
# Weights may be held in these besides, and what is computed in then.
EIGHT_BITS = {"fp8": "bfloat16", "int8": "bfloat16"}
WEIGHT_DTYPES = (*DTYPES, *EIGHT_BITS)  # that weights may be held in
Mode = Literal["off", "default", "graphs"]  # of compiling
MOST_ADAPTERS = 4  # that a row may name; of control networks too


def lacks_library(dtype: str) -> str:
    """Why weights cannot be held in a dtype on this machine, "" where they can."""
    if dtype != "int8" or find_spec("torchao") is not None:
        return ""
    return "weights in int8 want torchao, which is not installed here: pip install 'darkroom[int8]'"


__getattr__, __dir__, __all__ = front_door(
    __name__,
    {
        "catalog": ("address", "open_model"),
        "errors": ("ModelError",),
        "network": ("Network", "build_network", "sample", "sampling_row", "save_network"),
        "cascade": ("Cascade",),
        "classifier": ("Classifier", "mnist_classifier"),
        "registry": ("RegisteredModel",),
        "scorers": ("Scorer", "open_scorer"),
        "sources": ("Source", "open_source"),
        "weights": ("check_dtype", "load_module", "read_header", "read_tensor"),
        "memory": ("Memory", "size_text"),
        "node_cache": ("remember",),
    },
)
__all__ += ["DTYPES", "EIGHT_BITS", "MOST_ADAPTERS", "WEIGHT_DTYPES", "Mode", "lacks_library"]
