"""What a command's help has beside its parameters: the examples of its script, groups of options, names of values."""

from __future__ import annotations

from typing import Any

# Of commands with many options, by what one is after; what is named nowhere stays among "Options".
GROUPS = {
    "generate": {
        "What is made": "model adapter control depth dtype safety watermark scorer embeddings prompt count seed",
        "Which rows": "limit ids rerun replace verify max_failed_rows inputs_root dry_run check_inputs",
        "Where it lies": "out images unit_rows report",
        "Workers": (
            "workers stage1_workers stage2_workers stage3_workers capacity compile address wait_seconds stall_seconds"
        ),
    },
}
VALUES = {
    "URI": "out data source against classifier embeddings imported registry depth run uri",
    "MANIFEST": "manifest",
    "PIPELINE": "pipeline",
    "MODEL": "model like",
    "NAME=URI": "adapter control",
    "HOST:PORT": "address",
    "FOLDER|URI": "inputs_root",
    "KEY=VALUE": "settings default",
    "COLUMN=KEY": "column",
    "N": (
        "workers stage1_workers stage2_workers stage3_workers limit unit_rows count seed steps stride per_class "
        "samples nodes cpus_per_node cpus to priority"
    ),
    "NUMBER": "guidance",
    "NAME": "sampler submission_id env",
    "CLIP:URI|digits": "scorer",
    "FOLDER": "folder",
    "TEXT": "reason",
    "N|auto": "capacity",
    "N|N%": "max_failed_rows",
    "SECONDS": "wait_seconds stall_seconds",
    "DTYPE[,DTYPE]": "dtype",
    "TIME": "tick at",
    "FILE": "ids",
    "CLASSES": "rerun only",
}
_VALUE = {name: value for value, names in VALUES.items() for name in names.split()}


def epilog(docstring: str | None) -> str:
    """What a script says below its first sentence: examples line by line, and prose."""
    from rich.markup import escape  # a tenth of a second, that only help needs

    _, _, rest = (docstring or "").partition("\n\n")
    blocks = [block.splitlines() for block in rest.strip("\n").split("\n\n")]
    # Prose is wrapped anew, to the terminal's width.
    texts = [("\n" if lines[0].startswith("    ") else " ").join(map(str.strip, lines)) for lines in blocks if lines]
    return escape("\n\n".join(texts))


def dress(command: Any, name: str) -> None:
    """Groups a command's options, and names their values; of a group of commands those of each."""
    for inner, part in getattr(command, "commands", {}).items():
        dress(part, inner)
    groups = {option: group for group, options in GROUPS.get(name, {}).items() for option in options.split()}
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.name in _VALUE:
            parameter.metavar = _VALUE[parameter.name]
        if parameter.param_type_name == "option" and parameter.name in groups:
            parameter.rich_help_panel = groups[parameter.name]
    order = [*GROUPS.get(name, {})]
    command.params.sort(key=lambda parameter: order.index(group) if (group := groups.get(parameter.name)) else -1)
