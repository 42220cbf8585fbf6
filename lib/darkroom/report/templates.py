"""Pages from their templates in this folder; all of them begin with style.css."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """The page that a template makes of the values; every value the template names must be given."""
    environment = Environment(
        loader=PackageLoader("darkroom", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
