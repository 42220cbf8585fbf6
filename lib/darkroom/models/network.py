"""Networks of our own: a model directory of config.json and model.safetensors, opened, saved and asked.

config.json    {"name", "kind": "network", "network": {"architecture", ...}, "process": {...} or null, "classes",
               "training", "metrics"}; a network without a process is a denoiser and generates nothing
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from darkroom.models.adapter_files import StoredAdapter
from darkroom.models.control import StoredNet
from darkroom.models.course_unet import CourseUNet
from darkroom.models.ddpm_unet import DDPMUNet
from darkroom.models.errors import ModelError
from darkroom.models.memory import Memory, count_flops, measure
from darkroom.models.weights import DTYPES, check_dtype
from darkroom.sampling.names import unknown
from darkroom.sampling.plans import condition_keys, make_plan
from darkroom.sampling.processes import Process, process_from_config
from darkroom.sampling.run import walk_fitting
from darkroom.sampling.stage import Fields, Inputs, Row, Stage
from darkroom.storage import NotFound, Store, open_store

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ARCHITECTURES: dict[str, type[nn.Module]] = {"course-unet": CourseUNet, "ddpm-unet": DDPMUNet}
# What each is told of the time: a share of the way, or a timestep.
PROCESSES = {"course-unet": "flow", "ddpm-unet": "diffusion"}


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """A network with random weights from {"architecture": name, **its keyword arguments}. Raises ValueError."""
    architecture = str(config.get("architecture"))
    if architecture not in ARCHITECTURES:
        raise unknown("architecture", architecture, ARCHITECTURES)
    arguments = {key: value for key, value in config.items() if key != "architecture"}
    try:
        return ARCHITECTURES[architecture](**arguments)
    except TypeError as error:
        raise ValueError(f"{arguments} are not what a {architecture} is made from: {error}") from None


def save_network(store: Store, weights: Mapping[str, Tensor], config: Mapping[str, Any], folder: str = "") -> None:
    """A model directory in `folder` of the store; config.json is written last, so without it there is no model.

    weights: a state_dict, on any device. config: all of config.json, plain JSON values.
    """
    prefix = f"{folder.strip('/')}/" if folder else ""
    # Copies, because safetensors writes no tensors that share memory, and channels_last ones only once turned.
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    store.write(prefix + WEIGHTS, save(whole))
    store.write(prefix + CONFIG, json.dumps(config, indent=1, ensure_ascii=False, allow_nan=False).encode())


def condition(key: str, num_classes: int | None) -> Tensor:
    """What a network of that many classes (None: unconditional) is told for a plan's condition key, int64 [].

    "label 7" is 7 and "" is num_classes, "no class"; an unconditional network gets 0 and does not look at it.
    """
    if not num_classes:
        return torch.tensor(0)
    return torch.tensor(int(key.removeprefix("label "))) if key else torch.tensor(num_classes)


class NetworkPredictor:
    """A network as the engine asks it: see `darkroom.sampling.engine.Predictor`. Conditions are labels, int64 [].

    It takes the network over: moved to the device in channels_last, in eval mode, its weights without gradients.
    """

    def __init__(self, network: nn.Module, process: Process, device: torch.device) -> None:
        network = network.eval().requires_grad_(False)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.process, self.device = process, device
        self.dtype = next(network.parameters()).dtype

    @torch.no_grad()
    def __call__(self, x: Tensor, timestep: Tensor, condition: Tensor, noise_level: Tensor) -> Tensor:
        x = x.to(self.dtype, memory_format=torch.channels_last)
        if self.process.kind == "flow":  # a diffusion's go beyond what 16 bits can count
            timestep = timestep.to(self.dtype)
        return self.network(x, timestep, condition).float().contiguous()

    def condition(self, key: str) -> Tensor:
        """See the function of this name."""
        return condition(key, self.network.num_classes)

    def conditions(self, row: Row) -> dict[str, Tensor]:
        """What it is told for each of a canonical row's labels."""
        return {key: self.condition(key) for key in condition_keys(row)}


def sample(predictor: NetworkPredictor, stage: Stage, rows: Sequence[Row], capacity: int = 64) -> Tensor:
    """Develops canonical rows that need no pictures, such as text_to_image by label, without files and without Ray.

    capacity: evaluations a pass, or half as many, and so on, where the device's memory ends.
    Returns float32 [N, C, S, S], about [-1, 1] and not clamped, in the order of the rows, on the host.
    """
    plans = [make_plan(row, stage, Inputs(predictor.conditions(row))) for row in rows]
    images = [finished.image for finished in walk_fitting(predictor, plans, capacity)]
    return torch.stack(images) if images else torch.empty(0, *stage.shape)


def sampling_row(
    seed: int, label: int | None, guidance: float, steps: int, sampler: str | None = None
) -> dict[str, Any]:
    """A canonical row for `sample`. label: None where the network takes no class, which knows no guidance either."""
    asked = {"label": label, "guidance": guidance} if label is not None else {"prompt": "", "guidance": 1.0}
    named = {"sampler": sampler} if sampler else {}
    return {"task": "text_to_image", "negative_prompt": "", "seed": seed, "steps": steps, **asked, **named}


def make_stage(config: Mapping[str, Any]) -> Stage:
    """The one stage of a network's config.json. ModelError where it generates nothing, or what it says cannot be."""
    name, network, process = (config.get(key) for key in ("name", "network", "process"))
    if process is None:
        raise ModelError(
            f"the model {name!r} is a denoiser: it was trained to clean pictures in one step, has no process that "
            "leads from noise to a picture, and so cannot generate"
        )
    try:
        # On no device: what a network is made from is checked before any worker is asked for.
        with torch.device("meta"):
            built = build_network(network)
        made = process_from_config(process)
        wanted = PROCESSES[network["architecture"]]
        if made.kind != wanted or made.learned_variance:
            raise ValueError(f"a {network['architecture']} walks a {wanted} without a learned variance; got {process}")
        return Stage(1, built.size, built.channels, made)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"the config.json of the model {name!r} cannot be used: {error}") from None


@dataclass(frozen=True, eq=False)
class Network:
    """What can be known of a network's model directory; weights are read when they are asked for.

    `stages`, and what follows from them, raise ModelError for a denoiser.
    """

    store: Store
    config: dict[str, Any]
    kind: ClassVar = "network"
    default_dtype: ClassVar = "float32"
    encoders: ClassVar = ()  # it reads no text
    text_layers: ClassVar = None
    adapters: ClassVar = ()
    nets: ClassVar = ()
    depth: ClassVar = None

    @classmethod
    def open(cls, uri: str) -> Network:
        """The network in a folder or at an s3:// uri. ModelError if there is none."""
        store = open_store(uri)
        try:
            return cls.from_config(store, read_config(store))
        except NotFound:
            raise ModelError(f"no network in {uri}: it has no {CONFIG}") from None

    @classmethod
    def from_config(cls, store: Store, config: dict[str, Any]) -> Network:
        """The network whose config.json was read from the store already."""
        if not isinstance(config.get("name"), str) or not isinstance(config.get("network"), dict):
            raise ModelError(f"{store.uri(CONFIG)} does not describe a network: it wants a 'name' and a 'network'")
        return cls(store, config)

    @property
    def name(self) -> str:
        return self.config["name"]

    @cached_property
    def revision(self) -> str:
        """Digest of everything that has a say in a picture: 16 hex of SHA-256 over network, process and weights."""
        says = {key: self.config.get(key) for key in ("network", "process")}
        return hashlib.sha256(json.dumps(says, sort_keys=True).encode() + self._read_weights()).hexdigest()[:16]

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        return (make_stage(self.config),)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The one picture size."""
        return (self.default_size,)

    @property
    def default_size(self) -> int:
        return self.stages[0].size

    @property
    def conditioning(self) -> Literal["label", "none"]:
        return "label" if self.num_classes else "none"

    @property
    def num_classes(self) -> int | None:
        """Labels 0..num_classes - 1 may be asked for; None for an unconditional network."""
        return self.config["network"].get("num_classes") or None

    def condition(self, key: str) -> Tensor:
        """What the network is told for a plan's condition key, int64 []; "" is "no class"."""
        return condition(key, self.num_classes)

    @property
    def address(self) -> str:
        """What another process opens to get the same model."""
        return self.store.root

    def predictor(self, number: int, device: torch.device, dtype: str = "float32") -> NetworkPredictor:
        """The network with its weights on the device, ready for the engine. number: 1, as there is one stage.

        Raises ModelError for a dtype that the device lacks.
        """
        wanted = check_dtype(dtype, device)
        return NetworkPredictor(self.load().to(wanted), self.stages[number - 1].process, device)

    def memory(self, number: int, dtype: str, capacity: int) -> Memory:
        """What the network needs on a device to make passes of `capacity` evaluations; nothing is loaded."""
        return measure(*self._meta_pass(dtype, capacity))

    def evaluation_flops(self, number: int) -> int:
        """Floating point operations of one evaluation; nothing is loaded."""
        return count_flops(self._meta_pass("float32", 1)[1])

    def empty_fields(self, number: int, adapters: int = 0) -> tuple[Tensor, ...]:
        """What its network is told beside state and time, of one question: a label, and a noise level of no meaning."""
        return self.condition(""), torch.tensor(0)

    def row_fields(self, number: int, row: Row) -> Fields:
        """What its network is told of a row whatever it is asked: nothing."""
        return {}

    def adapted(self, adapters: Sequence[StoredAdapter]) -> Network:
        """ModelError: adapters are for UNets of diffusers."""
        names = ", ".join(repr(adapter.name) for adapter in adapters)
        raise ModelError(f"{self.name} is a network of our own, which takes no adapter; {names} given")

    def controlled(self, nets: Sequence[StoredNet]) -> Network:
        """ModelError: control networks are for UNets of diffusers."""
        names = ", ".join(repr(net.name) for net in nets)
        raise ModelError(f"{self.name} is a network of our own, which takes no control network; {names} given")

    def with_depth(self, depth: Any) -> Network:
        """ModelError: there is no control network to draw maps for."""
        raise ModelError(f"{self.name} is a network of our own, which takes no control network and so no --depth")

    def control_fields(self, number: int) -> tuple[Tensor, ...]:
        """What its network is told of control: nothing."""
        return ()

    def _meta_pass(self, dtype: str, capacity: int) -> tuple[nn.Module, Callable[[], None]]:
        """The network on the meta device, and a pass of it."""
        (stage,), meta = self.stages, torch.device("meta")
        with meta:
            network = build_network(self.config["network"]).to(DTYPES[dtype])
        predictor = NetworkPredictor(network, stage.process, meta)

        def run() -> None:
            x = torch.empty(capacity, stage.channels, stage.size, stage.size, device=meta)
            times = torch.zeros(capacity, dtype=torch.int64, device=meta)
            predictor(x, times.float(), times, times)

        return network, run

    def load(self) -> nn.Module:
        """The network with its weights, on the host, in eval mode and without gradients; denoisers too."""
        where = self.store.uri(WEIGHTS)
        try:
            network = build_network(self.config["network"])
            network.load_state_dict(load(self._read_weights()))
        except SafetensorError as error:
            raise ModelError(f"{where} is damaged: {error}") from None
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{where} does not fit the network of its {CONFIG}: {error}") from None
        return network.eval().requires_grad_(False)

    def _read_weights(self) -> bytes:
        try:
            return self.store.read(WEIGHTS)
        except NotFound:
            raise ModelError(f"the model has no file {self.store.uri(WEIGHTS)}") from None


def read_config(store: Store) -> dict[str, Any]:
    """The config.json of a model directory. NotFound if there is none; ModelError if it is no JSON object."""
    where = store.uri(CONFIG)
    try:
        config = json.loads(store.read(CONFIG))
    except ValueError as error:
        raise ModelError(f"{where} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{where} is not a JSON object")
    return config
