"""Data sets that other people's programs read, made of a run. What others use, by module:

job                `export`: the job `darkroom export`: all shards on Ray Data, then the cards, then the hub
plan               `ExportOptions`, `FORMATS`: which rows, in what form; `read_size`, `read_splits`: as they are written
"""

from darkroom.front_door import front_door

__getattr__, __dir__, __all__ = front_door(
    __name__, {"job": ("export",), "plan": ("FORMATS", "ExportOptions", "read_size", "read_splits")}
)
