"""Every model by its name or address: embedded ones, DeepFloyd IF, Stable Diffusion, folders, s3:// uris, repositories
of the hub, and champions of a registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.manifest import Abilities
from darkroom.models import registry
from darkroom.models.adapter_files import StoredAdapter
from darkroom.models.adapter_folder import KIND, check_base
from darkroom.models.control import StoredNet
from darkroom.models.errors import ModelError
from darkroom.models.model_names import EMBEDDED, PRESETS, no_model
from darkroom.models.network import Network, read_config
from darkroom.models.sources import HUB, Source, check_revision, open_source, split_revision
from darkroom.sampling.stage import Stage
from darkroom.storage import NotFound, open_store

GUIDANCE, FILL_GUIDANCE = 3.5, 30.0  # that Flux and Flux Fill are told where a row says nothing, as in their pipelines

if TYPE_CHECKING:
    from darkroom.models.cascade import Cascade
    from darkroom.models.depth import StoredDepth

    Model = Cascade | Network


def address(name_or_uri: str, model: Model) -> str:
    """What another process must open to get `model`, which was opened by that name: itself to the revision, the commit
    or the version, whatever the name means by then. An embedded model goes by its name, as each node has its own copy.
    """
    return name_or_uri if name_or_uri in EMBEDDED else model.address


def open_model(
    name_or_uri: str,
    adapters: Mapping[str, str] | None = None,
    control: Mapping[str, str] | None = None,
    depth: str | None = None,
) -> Model:
    """The embedded model of that name, DeepFloyd IF, Stable Diffusion, SD3, Flux, or the one in a folder, at an s3://
    or registry:// uri, or one made of a source per stage.

    No weight is loaded, and none is downloaded. A folder's config.json says what it is: its "kind" is "network" or
    "pipeline", else it is a cascade; a folder without one is a pipeline of diffusers, or holds stage1/, stage2/,
    stage3/ that are. adapters, control: names of adapters and control networks that rows may ask for, and where each
    lies; depth: where a model lies that draws maps of depth for these.
    Raises ModelError, or StorageError when storage fails.

    Of a model one may ask its `name`, `sizes` and `default_size` in pixels, `conditioning` ("text", "label" or "none"),
    `num_classes`, `stages`, `revision` (a digest of all that has a say in a picture), `config` with what was measured,
    and what a stage needs: `memory(number, dtype, capacity)`, `evaluation_flops(number)`.

    >>> import darkroom
    >>> model = darkroom.open_model("if-xs")
    >>> model.sizes, model.conditioning
    ((24, 48), 'text')
    """
    model = _open(name_or_uri)
    if adapters:
        model = model.adapted([_adapter_at(name, place, model) for name, place in adapters.items()])
    if control:
        model = model.controlled([StoredNet.at(name, place) for name, place in control.items()])
    return model if depth is None else model.with_depth(_depth_at(depth))


def _adapter_at(name: str, place: str, model: Model) -> StoredAdapter:
    """ModelError where it was trained here on another model."""
    place = registry.resolve(place) if place.startswith(registry.SCHEME) else place
    check_base(name, place, model.name, model.revision)
    return StoredAdapter.at(name, place)


def _depth_at(place: str) -> StoredDepth:
    from darkroom.models.depth import StoredDepth  # not at the top: few ask for it

    return StoredDepth.at(place)


def _open(name_or_uri: str) -> Model:
    if name_or_uri.startswith(registry.SCHEME):
        return _open(registry.resolve(name_or_uri))
    if (parts := _parts(name_or_uri)) is not None:
        sources = tuple(open_source(part) for part in parts)
        return _pipelines(name_or_uri if name_or_uri in PRESETS else "+".join(map(_short, sources)), sources)
    place, revision = split_revision(str(EMBEDDED.get(name_or_uri, name_or_uri)))
    store = open_store(place)
    try:
        config = read_config(store)
    except NotFound:
        return _of_folder(name_or_uri, open_source(str(EMBEDDED.get(name_or_uri, name_or_uri))))
    if config.get("kind") == Network.kind:
        network = Network.from_config(store, config)
        if revision:
            check_revision(store.root, network.revision, revision)
        return network
    pinned = f"{store.root}@{revision}" if revision else store.root
    if config.get("kind") == "pipeline":  # of diffusers, with a name and what was measured beside it
        return replace(_pipelines(config["name"], (open_source(pinned),)), config=config)
    if config.get("kind") == KIND:
        base = config.get("base", {}).get("model", "its model")
        raise ModelError(f"{name_or_uri} is an adapter: give it with --model {base} --adapter NAME={name_or_uri}")
    if "stages" not in config:
        raise ModelError(f"the config.json of {name_or_uri} describes neither a network nor a cascade")
    # Here and not at the top: diffusers and transformers cost four seconds, which a network need not pay.
    from darkroom.models.cascade import Cascade

    return Cascade.of_ours(open_source(pinned), config)


def abilities(model: Model, scorer: bool = False) -> Abilities:
    """What a manifest may ask of this model. scorer: there is one to choose candidates by."""
    process = model.stages[0].process
    reads = model.encoders[0] if model.encoders else None
    return Abilities(
        name=model.name,
        sizes=model.sizes,
        default_size=model.default_size,
        conditioning=model.conditioning,
        process=process.kind,
        num_timesteps=process.num_timesteps,
        sampler=process.default_sampler,
        samplers=process.samplers,
        grid=process.grid,
        num_classes=model.num_classes,
        upscale=len(model.stages) > 1 and model.stages[0].expert is None,
        scorer=scorer,
        latent=model.stages[0].encodes,
        step=model.stages[0].step,
        inpaints=model.stages[0].inpaints,
        text_layers=model.text_layers,
        paired=model.stages[0].sized,
        second_text=model.stages[0].sized or model.stages[0].process.shift is not None,
        edits=model.stages[0].edits,
        begun=model.stages[0].process.shift is not None,
        guidance=_guidance(model.stages[0]),
        embeds=model.stages[0].embeds_guidance,
        adapters=tuple(adapter.name for adapter in model.adapters),
        nets=tuple(net.name for net in model.nets),
        depth=model.depth is not None,
        prompt_tokens=(lambda prompt: model.encoder_tokens(reads, [prompt])[0]) if reads else None,
        max_tokens=model.most_tokens(reads) if reads else None,
        video=model.stages[0].video,
        experts=model.stages[0].expert is not None,
        starts=tuple(stage.start for stage in model.stages),
    )


def _guidance(stage: Stage) -> float | None:
    """See `Abilities.guidance`."""
    if not stage.distilled:
        return None
    if not stage.embeds_guidance:
        return 1.0
    return FILL_GUIDANCE if stage.inpaints else GUIDANCE


def open_pipeline(name_or_uri: str) -> Source:
    """The files of a single pipeline of diffusers: by name, in a folder, at an s3:// or hf:// uri. ModelError."""
    parts = _parts(name_or_uri) or (name_or_uri,)
    if len(parts) != 1:
        raise ModelError(f"{name_or_uri} is {len(parts)} pipelines, wanted one")
    return open_source(parts[0])


def open_revision(
    name_or_uri: str,
    revision: str | None,
    adapters: Sequence[StoredAdapter] = (),
    nets: Sequence[StoredNet] = (),
) -> Model:
    """The model there, with adapters and control networks of it, which must be of that revision, all of it; None for
    whatever lies there. ModelError where it is not: what is replaced while a run goes on must not make some of its
    pictures."""
    model = open_model(name_or_uri)
    if revision is not None and model.revision != revision:
        raise ModelError(
            f"the run was begun with the revision {revision} of the model {model.name!r}, and at {name_or_uri} lies "
            f"{model.revision} now: bring the model back, or begin another run with this one"
        )
    beside: dict[str, Any] = {name: tuple(own) for name, own in (("adapters", adapters), ("nets", nets)) if own}
    return replace(model, **beside) if beside else model


def _parts(name_or_uri: str) -> tuple[str, ...] | None:
    """The addresses of the stages, where a source per stage is asked for."""
    if name_or_uri in PRESETS:
        return PRESETS[name_or_uri]
    if "," in name_or_uri and not Path(name_or_uri).exists():
        return tuple(part.strip() for part in name_or_uri.split(","))
    return (name_or_uri,) if name_or_uri.startswith(HUB) else None


def _of_folder(name_or_uri: str, source: Source) -> Cascade:
    """A folder without a config.json of ours: one pipeline, or one in each of stage1/, stage2/, ..."""
    names = source.names()
    if {"unet/config.json", "transformer/config.json"} & names:
        return _pipelines(_short(source), (source,))
    count = next(n for n in range(len(names) + 1) if f"stage{n + 1}/unet/config.json" not in names)
    if not count:
        raise no_model(name_or_uri)
    return _pipelines(_short(source), tuple(source.within(f"stage{n + 1}") for n in range(count)))


def _pipelines(name: str, sources: tuple[Source, ...]) -> Cascade:
    from darkroom.models.cascade import Cascade

    return Cascade.of_pipelines(name, sources)


def _short(source: Source) -> str:
    return source.address.partition("@")[0].rstrip("/").rpartition("/")[2]
