"""What the pages say can be typed and followed: their parsers take all commands, and every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer

from darkroom.cli import command_line
from documented import PAGES, ROOT, commands

LINK = re.compile(r"\]\(([^)\s]+)\)")
USAGE = typer.BadParameter.__mro__[1]  # UsageError, which typer has of its own


@pytest.fixture(scope="module")
def root() -> Any:
    return typer.main.get_command(command_line())


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_ones_that_there_are(page: str, root: Any) -> None:
    for line in commands((ROOT / page).read_text()):
        command, arguments, context = root, shlex.split(line), None
        try:
            while hasattr(command, "resolve_command"):
                context = command.make_context(command.name or "darkroom", arguments, parent=context)
                _, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
            command.make_context(command.name or "", arguments, parent=context)
        except USAGE as error:
            pytest.fail(f"{page}: darkroom {line}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in LINK.findall((ROOT / page).read_text()):
        if link.startswith(("http:", "https:")):
            continue
        path, _, heading = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if heading:
            headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
            assert heading in slugs, f"{page} links to {link}"


def test_the_pages_have_commands() -> None:
    assert len(commands((ROOT / "README.md").read_text())) > 8
