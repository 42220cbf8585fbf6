from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.storage.hashing import HashSet, hashed, hashes


def test_a_text_has_always_the_same_bits() -> None:
    """BLAKE2b of 8 bytes (RFC 7693), the first byte the highest; a lone surrogate is a text too."""
    assert hashed("a") == 0x40F89E395B66422F
    assert hashes(["a", "", "\ud800"]).tolist() == [hashed("a"), hashed(""), hashed("\ud800")]
    assert hashes([]).dtype == np.uint64 and len(hashes([])) == 0


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 20), max_size=30), max_size=12))
def test_a_set_of_hashes_is_a_set(parts: list[list[int]]) -> None:
    known: set[int] = set()
    found = HashSet()
    for part in parts:
        values = np.array(part, dtype=np.uint64)
        assert found.contains(values).tolist() == [value in known for value in part]
        wanted = [value not in known and value not in part[:at] for at, value in enumerate(part)]
        assert found.add(values).tolist() == wanted
        known |= set(part)
        assert len(found) == len(known)
