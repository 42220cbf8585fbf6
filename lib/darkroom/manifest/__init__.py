"""What is asked for: manifest files read as a stream, checked as a whole, and turned into one frozen task per row."""

from darkroom.manifest.checks import Abilities, Manifest, ManifestError, check, open_manifest
from darkroom.manifest.readers import read_rows
from darkroom.manifest.sweeps import Row
from darkroom.manifest.tasks import (
    TASKS,
    Anagram,
    Hybrid,
    ImageToImage,
    Inpaint,
    Task,
    TextToImage,
    Upscale,
    parse_task,
    row_key,
)

__all__ = [
    "TASKS",
    "Abilities",
    "Anagram",
    "Hybrid",
    "ImageToImage",
    "Inpaint",
    "Manifest",
    "ManifestError",
    "Row",
    "Task",
    "TextToImage",
    "Upscale",
    "check",
    "open_manifest",
    "parse_task",
    "read_rows",
    "row_key",
]
