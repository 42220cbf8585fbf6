"""What a row asks, as one string that says all of it and is the prompt itself wherever that does."""

from __future__ import annotations

import pytest

from darkroom.sampling.prompt_keys import MARK, PromptKey, prompt_key, prompt_of


@pytest.mark.parametrize(
    "key",
    [
        PromptKey("a red one"),
        PromptKey(""),
        PromptKey("", nothing=True),
        PromptKey("a", "b"),
        PromptKey("a", "", 2),
        PromptKey("a", clip_skip=1),
        PromptKey(f"{MARK}a"),
        PromptKey(PromptKey("a", "b").write()),
    ],
)
def test_a_key_is_read_as_it_was_written(key: PromptKey) -> None:
    assert PromptKey.read(key.write()) == key
    assert prompt_of(key.write()) == key.prompt
    if not key.nothing:
        assert prompt_key(*key[:3]) == key.write()


def test_a_plain_prompt_is_its_own_key() -> None:
    assert prompt_key("a red one") == PromptKey("a red one").write() == "a red one"
    keys = [prompt_key("a"), prompt_key("a", "a"), prompt_key("a", None, 1), prompt_key("a", "b", 1)]
    assert len(set(keys)) == 4
