from __future__ import annotations

from untrained_cascade import untrained_cascade  # noqa: F401 - a fixture
