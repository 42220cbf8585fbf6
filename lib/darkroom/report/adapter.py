"""What the report of an adapter's training shows: the validation prompts, drawn after some of the epochs."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from PIL import Image

from darkroom.report.sections import Drawing, Section
from darkroom.report.trained import TrainingRun
from darkroom.storage import encode_png

SHOWN = 12  # epochs at most
SIDE = 256  # pixels of the file that a picture has at least, about
_SHEET = re.compile(r"validation/epoch-(\d+)\.png")


def is_adapter(run: TrainingRun) -> bool:
    """Whether the run trains an adapter, finished or not."""
    return run.recipe.get("name") == "lora"


def prompts_by_epoch(run: TrainingRun) -> Section:
    """The same prompts and seeds after each of some epochs, evenly drawn with the first and the last."""
    prompts = [prompt.strip() for prompt in str(run.recipe.get("validation", "")).split("|") if prompt.strip()]
    found = {int(match[1]): key for key in run.store.list("validation/") if (match := _SHEET.fullmatch(key))}
    if not found:
        return Section(
            "validation", "Validation prompts", ["None were drawn: --set validation='a dog|a cat' names some."]
        )
    epochs = sorted(found)
    places = np.unique(np.linspace(0, len(epochs) - 1, SHOWN).round().astype(int))
    drawings = [
        Drawing(f"validation-{epoch}", _enlarged(run.store.read(found[epoch])), f"{'; '.join(prompts)}: epoch {epoch}",
                f"epoch {epoch}")
        for epoch in (epochs[place] for place in places)
    ]  # fmt: skip
    about = [f"From the left: {'; '.join(prompts)}. The same seeds each time, the adapter at scale 1."]
    return Section("validation", "Validation prompts", about, drawings)


def _enlarged(png: bytes) -> bytes:
    """Small pictures by whole factors, pixel by pixel, so that there is something to see."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    factor = max(1, SIDE // image.height)
    return encode_png(np.asarray(image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)))


def facts(config: dict[str, Any]) -> list[tuple[str, str]]:
    """What the head of the page says of a finished one, by its config.json."""
    adapter, base, metrics = config["adapter"], config["base"], config["metrics"]
    learned = config["training"]["data"]
    return [
        ("adapter of", f"{base['name']}, revision {base['revision']}"),
        ("rank", f"{adapter['rank']}, alpha {adapter['alpha']:g}, on {adapter['layers']} layers"),
        ("parameters", f"{adapter['parameters']:,}"),
        ("loss on fixed noise", f"{metrics['validation_loss']:.4f}, of the base {metrics['base_loss']:.4f}"),
        ("pictures", f"{config['training']['images']:,} of {learned['name']} at {learned['uri']}"),
        ("file", config["weights"]),
    ]
