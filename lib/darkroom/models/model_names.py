"""Models that go by a name, and what is said of a name that nobody knows: known before torch is imported."""

from __future__ import annotations

from pathlib import Path

from darkroom.models import cogvideox_wan, deepfloyd, sd3_flux, stable_diffusion
from darkroom.models.errors import ModelError

EMBEDDED = {name: Path(__file__).parent / name.replace("-", "_") for name in ("if-xs", "sd-xs")}
PRESETS = deepfloyd.PRESETS | stable_diffusion.PRESETS | sd3_flux.PRESETS | cogvideox_wan.PRESETS


def no_model(name_or_uri: str) -> ModelError:
    """That there is none of that name or at that address."""
    known = ", ".join([*EMBEDDED, *PRESETS])
    return ModelError(
        f"no model {name_or_uri!r}: neither one that is known by name ({known}) nor a folder or s3:// uri with a "
        "config.json, a unet or transformer folder, or stage1, stage2, ... folders; several sources are separated by "
        "commas"
    )


def refuse_unknown(name_or_uri: str) -> None:
    """ModelError for what can only be a name, and is that of none: no folder of it is here."""
    name = name_or_uri.partition("@")[0]
    if name in EMBEDDED or name in PRESETS or "://" in name or "," in name:
        return
    if not Path(name_or_uri).exists() and not Path(name).exists():
        raise no_model(name_or_uri)
