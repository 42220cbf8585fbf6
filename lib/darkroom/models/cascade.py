"""A cascade: stages that paint and enlarge, each from a source, and the text encoders that they listen to.

Two layouts. Our own (`if-xs`), where one folder holds all:
config.json                          name, stages with their steps, guidance, noise level; metrics
stage1/unet/ stage1/scheduler/       stage II and up also have image_noising_scheduler/
text_encoder/ tokenizer/
Or a source per stage, each a pipeline as diffusers saves it: see `stages`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from darkroom.models import stages, texts
from darkroom.models.adapter_files import StoredAdapter
from darkroom.models.control import StoredNet, control_fields
from darkroom.models.errors import ModelError
from darkroom.models.families import WAN, family_of, network_folder, stage_kind
from darkroom.models.memory import Memory, most_adapter_bytes
from darkroom.models.node_cache import remember
from darkroom.models.parts import build_network, decoding_of, encoding_of, measuring_of, whole_parts_of
from darkroom.models.sources import LocalFolder, Source, read_json
from darkroom.models.texts import Encoding, TextEncoder
from darkroom.models.video_stages import SECOND_EXPERT, experts_of
from darkroom.models.weights import DIFFUSERS, check_dtype, config_of, load_module
from darkroom.sampling.device import computes_in_bfloat16
from darkroom.sampling.stage import Fields, Row, Shape, Stage, at_size

if TYPE_CHECKING:  # diffusers' networks cost three seconds, which whoever only plans need not pay
    from torch import nn

    from darkroom.models.adapter_files import Adapter
    from darkroom.models.depth import StoredDepth
    from darkroom.models.latents import Latents
    from darkroom.models.mmdit import TransformerPredictor
    from darkroom.models.predictors import UNetPredictor

TEXT, CLIP = "text_encoder", "stage3"  # the names of the encoders: of stages I and II, and the upscaler's own


@dataclass(frozen=True, eq=False)
class Cascade:
    """What can be known of a cascade without loading a weight.

    name: what people call it. sources: the files of each stage, in order. encodings: by name, see `encoder_of`.
    settings: the stages' own of a config.json of ours, None for diffusers' defaults. root: where that config.json lies.
    adapters: to the first stage's UNet, that rows may ask for; nets: control networks beside it, in the order of their
    digests, whatever they are called, as their answers are added in that order; depth: what draws maps for these.
    """

    name: str
    sources: tuple[Source, ...]
    encodings: dict[str, Encoding]
    default_dtype: str = "bfloat16"
    config: dict[str, Any] = field(default_factory=dict)
    root: Source | None = None
    adapters: tuple[StoredAdapter, ...] = ()
    nets: tuple[StoredNet, ...] = ()
    depth: StoredDepth | None = None
    kind: ClassVar = "cascade"
    conditioning: ClassVar = "text"
    num_classes: ClassVar = None

    @classmethod
    def of_ours(cls, root: Source, config: dict[str, Any]) -> Cascade:
        """The cascade in a folder with a config.json of our own, read already."""
        if not isinstance(config.get("name"), str) or not isinstance(config["stages"], list):
            raise ModelError(f"{root.address}/config.json does not describe a cascade: it wants a 'name' and 'stages'")
        sources = tuple(root.within(f"stage{number}") for number in range(1, len(config["stages"]) + 1))
        return cls(config["name"], sources, {TEXT: Encoding(root, None, "none")}, "float32", config, root)

    @classmethod
    def of_pipelines(cls, name: str, sources: tuple[Source, ...]) -> Cascade:
        """The cascade of a source per stage, each in diffusers' layout. Raises ModelError where they do not fit."""
        kinds = [stage_kind(source) for source in sources]
        reads = [source for source, kind in zip(sources, kinds, strict=True) if kind != "upscaler"]
        # Every repository of IF holds the same T5 once more: the first that is there is enough.
        text = next((source for source in reads if "text_encoder/config.json" in source.names()), None)
        encodings = {} if text is None else {TEXT: encoding_of(text)}
        if "upscaler" in kinds:
            encodings[CLIP] = Encoding(sources[kinds.index("upscaler")], None, "none")
        cascade = cls(name, sources, encodings)
        if reads and text is None:
            raise ModelError(f"none of {', '.join(s.address for s in reads)} has a text_encoder folder; it needs one")
        assert cascade.stages  # read now, so that what is wrong is told before any work
        return cascade

    @property
    def address(self) -> str:
        """What another process opens to get the same model, to the revision where a source has one."""
        return self.root.pinned if self.root else ",".join(source.pinned for source in self.sources)

    @cached_property
    def revision(self) -> str:
        """Digest of everything that has a say in a picture: 16 hex of SHA-256 over its models and settings."""
        if isinstance(self.root, LocalFolder):
            return _revision_of_ours(self.root, self.config["stages"])
        says = [self.config.get("stages")]
        says += [source.digest(stages.FOLDERS) for source in self.sources]
        says += [[name, encoding.digest()] for name, encoding in sorted(self.encodings.items())]
        says += [stage.expert.boundary for stage in self.stages if stage.expert is not None]
        return hashlib.sha256(json.dumps(says, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        made: list[Stage] = []
        for number, source in enumerate(self.sources, start=1):
            own = self.config["stages"][number - 1] if self.root else None
            made.append(stages.read_stage(source, number, made[-1].size if made else None, own))
        if len(made) == 1 and made[0].encodes:  # what follows enlarges pictures of one size
            made = [replace(made[0], step=made[0].factor * made[0].patch)]
        return experts_of(made[0]) if len(made) == 1 else tuple(made)

    def source_of(self, number: int) -> Source:
        """The files of stage `number`; two experts lie in one folder."""
        return self.sources[min(number, len(self.sources)) - 1]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The picture sizes on offer, one a stage, ascending; one of two experts."""
        return tuple(stage.size for stage in self.stages if not stage.hands_over)

    @property
    def default_size(self) -> int:
        """What a row gets that names no size: the first stage's."""
        return self.stages[0].size

    @property
    def encoders(self) -> tuple[str, ...]:
        """The names of its text encoders."""
        return tuple(self.encodings)

    @property
    def text_layers(self) -> int | None:
        """Layers of the first encoder, where it is a CLIP and a row may leave some of the last out."""
        return self.encodings[self.encoders[0]].layers if self.stages[0].encodes else None

    def encoder_of(self, number: int) -> str:
        """Which encoder's embeddings stage `number` attends to."""
        return CLIP if self.stages[number - 1].enlarges_latents else TEXT

    def encoder_key(self, name: str, dtype: str) -> str:
        """16 hex: all that an embedding by encoder `name` depends on besides its text."""
        return self.encodings[name].key(dtype)

    def encoder_tokens(self, name: str, prompts: list[str]) -> list[int]:
        """How many tokens each prompt takes, the end mark included, before anything is cut off."""
        return self.encodings[name].tokens(prompts)

    def embedding_shape(self, name: str) -> tuple[int, int]:
        """Of one embedding by encoder `name`, as it is kept."""
        return self.encodings[name].shape

    def fields_of(self, number: int, embedding: torch.Tensor) -> torch.Tensor | Fields:
        """What stage `number`'s model is told, of an embedding as it is kept."""
        return self.encodings[self.encoder_of(number)].fields(embedding)

    def encoder_length(self, name: str) -> int:
        """How many positions an embedding by encoder `name` has."""
        return self.encodings[name].positions

    def most_tokens(self, name: str) -> int:
        """How many tokens encoder `name` reads."""
        return self.encodings[name].most_tokens

    def empty_fields(self, number: int, adapters: int = 0) -> tuple[torch.Tensor, ...]:
        """What stage `number`'s model is told beside state and time: zeros of the shapes of one question, in their
        order, of a row with so many adapters or with all that there are."""
        folder, config = self._network(number)
        fields_of = stages.unet_fields if folder == "unet" else stages.transformer_fields
        fields = fields_of(config, self.encoder_length(self.encoder_of(number)))
        row = {"adapters": [{"adapter": adapter.name, "scale": 0.0} for adapter in self.adapters[:adapters]]}
        return (*fields.values(), *self.row_fields(number, row).values())

    def row_fields(self, number: int, row: Row) -> Fields:
        """What stage `number`'s model is told of a row whatever it is asked: its adapters."""
        if number > 1 or not self.adapters:
            return {}
        from darkroom.models.adapters import adapter_fields

        own = {adapter["adapter"]: adapter["scale"] for adapter in row.get("adapters", ())}
        return adapter_fields(own, [adapter.name for adapter in self.adapters])

    def adapted(self, adapters: Sequence[StoredAdapter]) -> Cascade:
        """The same with adapters, in the order of their names. ModelError for those of other models."""
        if self.stages[0].video is not None:
            names = ", ".join(adapter.name for adapter in adapters)
            raise ModelError(f"adapters of models of videos, such as {self.name}, do not run here yet; {names} given")
        from darkroom.models.adapters import adaptable_layers

        with torch.device("meta"):
            targets = adaptable_layers(build_network(*self._network(1)))
        for adapter in adapters:
            adapter.load(targets)
        return replace(self, adapters=tuple(sorted(adapters, key=lambda adapter: adapter.name)))

    def controlled(self, nets: Sequence[StoredNet]) -> Cascade:
        """The same with control networks. ModelError for those of other models."""
        (first, *_), (folder, unet) = self.stages, self._network(1)
        if not first.encodes or folder == "transformer":
            names, why = (
                ", ".join(repr(net.name) for net in nets),
                "is a transformer" if first.encodes else "works on pixels",
            )
            raise ModelError(f"control networks are for Stable Diffusion and SDXL, {self.name} {why}; {names} given")
        for net in nets:
            net.check(unet, first.factor)
        return replace(self, nets=tuple(sorted(nets, key=lambda net: (net.digest, net.name))))

    def with_depth(self, depth: StoredDepth) -> Cascade:
        """The same with a model of depth beside it."""
        return replace(self, depth=depth)

    def control_fields(self, number: int) -> tuple[torch.Tensor, ...]:
        """What stage `number`'s model is told besides `empty_fields` where a question is all its control networks'."""
        return control_fields(len(self.nets), self.stages[0].pixels) if number == 1 else ()

    def predictor(
        self, number: int, device: torch.device, dtype: str = "float32"
    ) -> UNetPredictor | TransformerPredictor:
        """Stage `number` (1, 2, ...) with its weights on the device, ready for the engine. Raises ModelError."""
        check_dtype(dtype, device)
        source, stage = self.source_of(number), self.stages[number - 1]
        folder, config = self._network(number)
        whole = whole_parts_of(config)
        network = load_module(
            source, folder, DIFFUSERS, lambda: build_network(folder, config), device, dtype, (), whole
        )
        latents = self._latents(number, device, dtype) if stage.decodes else None
        adapters, room = self._adapters(number, network), most_adapter_bytes(device)
        if stage.video is not None:
            from darkroom.models.video import predictor_class

            return predictor_class(config)(network, stage.process, device, latents)
        if folder == "transformer":
            from darkroom.models.mmdit import TransformerPredictor

            return TransformerPredictor(network, stage.process, device, latents, adapters, room)
        from darkroom.models.predictors import UNetPredictor

        nets = {net.name: net.load(device, dtype) for net in self.nets if number == 1}
        return UNetPredictor(network, stage.process, device, latents, False, adapters, room, nets)

    def _network(self, number: int) -> tuple[str, dict[str, Any]]:
        """The folder of stage `number`'s network, and its config.json."""
        source, expert = self.source_of(number), self.stages[number - 1].expert
        folder = network_folder(source) if expert is None or expert.is_first else SECOND_EXPERT
        return folder, config_of(source, folder)

    def _adapters(self, number: int, network: nn.Module) -> list[Adapter]:
        if number > 1 or not self.adapters:
            return []
        from darkroom.models.adapters import adaptable_layers

        targets = adaptable_layers(network)
        return [adapter.load(targets) for adapter in self.adapters]

    def _latents(self, number: int, device: torch.device, dtype: str) -> Latents:
        """The VAE of stage `number`, which computes in `vae_dtype` beside a UNet of this dtype."""
        source, own = self.source_of(number), self.vae_dtype(number, dtype)
        build, kind = decoding_of(self.stages[number - 1], config_of(source, "vae"))
        if own == "bfloat16" and not computes_in_bfloat16(device):
            own = "float32"

        def load(name: str) -> nn.Module:
            return load_module(source, "vae", DIFFUSERS, build, device, name)

        return kind(load(own), None if own == "float32" else load)

    def vae_dtype(self, number: int, dtype: str) -> str:
        """What the VAE of stage `number` computes in beside a UNet of that dtype: never float16, whose range its values
        leave, and float32 for the upscaler, whose pictures are large and few, and for Wan, as its authors have it."""
        whole = self.stages[number - 1].enlarges_latents or family_of(self.source_of(number)) is WAN
        return "float32" if dtype == "float32" or whole else "bfloat16"

    def text_encoder(
        self, name: str | torch.device = TEXT, device: torch.device | None = None, dtype: str = "float32"
    ) -> TextEncoder:
        """Encoder `name` with its weights on the device; a device alone means the first stage's encoder."""
        if isinstance(name, torch.device):
            name, device = TEXT, name
        assert device is not None, "an encoder needs a device"
        return self.encodings[name].load(device, dtype)

    def memory(self, number: int, dtype: str, capacity: int, row: Row | None = None) -> Memory:
        """What stage `number` needs on a device to make passes of `capacity` evaluations, of videos as large as a row
        wants them or as they are by themselves; nothing is loaded."""
        source, stage = self.source_of(number), self.stages[number - 1]
        vae = config_of(source, "vae") if stage.decodes else None
        nets = [dict(net.config) for net in self.nets if number == 1]
        folder, config = self._network(number)
        shape = (dtype, capacity, *self._pass_shape(number, row or {}), vae, self.vae_dtype(number, dtype))
        shape += (nets,) if folder == "unet" else ()

        def measured() -> Memory:
            return measuring_of(folder, config).pass_memory(config, *shape)

        return Memory(*_remembered("memory", [config, *shape], measured))

    def evaluation_flops(self, number: int, row: Row | None = None) -> int:
        """Floating point operations of one evaluation of stage `number`, of a video as large as a row wants it or as it
        is by itself; nothing is loaded."""
        (folder, config), shape = self._network(number), self._pass_shape(number, row or {})

        def counted() -> int:
            return measuring_of(folder, config).evaluation_flops(config, *shape)

        return _remembered("flops", [config, *shape], counted)

    def _pass_shape(self, number: int, row: Row) -> tuple[int | Shape, int]:
        """Stage `number`'s state, of a UNet its side alone, and positions of an embedding."""
        stage = self.stages[number - 1]
        stage, length = at_size(row, stage) if stage.video else stage, self.encoder_length(self.encoder_of(number))
        if self._network(number)[0] == "unet":
            return stage.size // stage.factor, length
        channels, *side = stage.shape
        return (channels + stage.extra_channels, *side), length

    def encoder_memory(self, name: str, dtype: str, prompts: int = texts.BATCH) -> Memory:
        """What encoder `name` needs on a device to encode `prompts` at a time; nothing is loaded."""
        encoding = self.encodings[name]
        says = [encoding.config, encoding.positions, dtype, prompts]
        return Memory(*_remembered("memory", says, lambda: encoding.memory(dtype, prompts)))

    def scheduler_config(self, number: int) -> dict[str, Any]:
        """The scheduler_config.json of stage `number`."""
        return read_json(self.source_of(number), "scheduler/scheduler_config.json")


def _remembered(kind: str, says: list[Any], find: Callable[[], Any]) -> Any:
    """What the meta device tells of a network, which takes seconds for a large one: kept by this machine."""
    versions = [importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")]
    return remember(kind, json.dumps([*says, *versions], sort_keys=True), find)


def _revision_of_ours(root: LocalFolder, settings: list[dict[str, Any]]) -> str:
    """Over the bytes of every file below the folder that is a setting or a weight: the rows of earlier runs hold it."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(root.root.rglob("*")):
        if path.suffix in (".json", ".safetensors") and path.parent != root.root:
            digest.update(path.relative_to(root.root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
