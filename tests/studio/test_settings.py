"""What the studio was started with; words of people as Markdown that says just them."""

from __future__ import annotations

import pytest

from darkroom.studio import settings
from darkroom.studio.settings import Settings
from darkroom.studio.text import plain


def test_settings_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(settings.VARIABLE, raising=False)
    with pytest.raises(ValueError, match="start the studio by `darkroom studio RUNS`"):
        settings.read()
    given = Settings("s3://bucket/runs", "a registry", "http://head:8265")
    given.write()
    assert settings.read() == given


def test_words_stay_words() -> None:
    assert plain("a *red*\n\n# seven <b>x</b> $x$ :red[y]") == (r"a \*red\* \# seven \<b\>x\<\/b\> \$x\$ \:red\[y\]")
    assert plain("x" * 400) == "x" * 299 + "…" and plain(7) == "7"
    assert plain("שלום 世界") == "שלום 世界"
