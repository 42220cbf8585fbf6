"""What is asked for: manifest files read as a stream, checked as a whole, and turned into one frozen task per row."""

from darkroom.manifest.abilities import Abilities
from darkroom.manifest.checks import Manifest, check, open_manifest
from darkroom.manifest.problems import ManifestError
from darkroom.manifest.readers import read_rows
from darkroom.manifest.sweeps import WrittenRow
from darkroom.manifest.tasks import (
    TASKS,
    Anagram,
    Denoise,
    Forward,
    Hybrid,
    ImageToImage,
    Inpaint,
    Task,
    TextToImage,
    TextToVideo,
    Upscale,
    parse_task,
    row_key,
)

__all__ = [
    "TASKS",
    "Abilities",
    "Anagram",
    "Denoise",
    "Forward",
    "Hybrid",
    "ImageToImage",
    "Inpaint",
    "Manifest",
    "ManifestError",
    "WrittenRow",
    "Task",
    "TextToImage",
    "TextToVideo",
    "Upscale",
    "check",
    "open_manifest",
    "parse_task",
    "read_rows",
    "row_key",
]
