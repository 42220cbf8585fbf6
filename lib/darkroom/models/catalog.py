"""Every model by its name or address: embedded ones, folders, s3:// uris, registry:// champions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.models import registry
from darkroom.models.errors import ModelError
from darkroom.models.network import Network, read_config
from darkroom.storage import LocalStore, NotFound, open_store

if TYPE_CHECKING:
    from darkroom.models.cascade import Cascade

    Model = Cascade | Network

EMBEDDED = {"if-xs": Path(__file__).parent / "if_xs"}


def address(name_or_uri: str) -> str:
    """What another process must open to get the same model: embedded names as they are, folders absolute, and of a
    registry:// address the folder of the version that it means now."""
    if name_or_uri.startswith(registry.SCHEME):
        return registry.resolve(name_or_uri)
    return name_or_uri if name_or_uri in EMBEDDED else open_store(name_or_uri).root


def open_model(name_or_uri: str) -> Model:
    """The embedded model of that name, or the one in a folder or at an s3:// or registry:// uri; no weight is loaded.

    config.json says what it is: its "kind" is "network", else it is a cascade, which must lie in a local folder.
    Raises ModelError, or StorageError when storage fails.
    """
    where = address(name_or_uri)
    store = open_store(str(EMBEDDED.get(where, where)))
    try:
        config = read_config(store)
    except NotFound:
        known = ", ".join(EMBEDDED)
        raise ModelError(
            f"no model {name_or_uri!r}: neither an embedded one ({known}) nor a folder or s3:// uri with a config.json"
        ) from None
    if config.get("kind") == Network.kind:
        return Network.from_config(store, config)
    if "stages" not in config:
        raise ModelError(f"the config.json of {name_or_uri} describes neither a network nor a cascade")
    if not isinstance(store, LocalStore):
        raise ModelError(f"the model {name_or_uri} is a cascade, which is opened from a local folder only: copy it")
    # Here and not at the top: diffusers and transformers cost four seconds, which a network need not pay.
    from darkroom.models.cascade import Cascade

    return Cascade(Path(store.root))
