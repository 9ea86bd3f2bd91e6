"""Settings: the key is made once and kept private, mistakes are told without showing it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from seq_ml.settings import SETTINGS_FILE, home, load_settings
from tests.storage.refusals import mode


def test_the_pseudonym_key_is_made_once_and_kept_private(monkeypatch):
    with ThreadPoolExecutor(8) as pool:
        keys = {f.pseudonym_key.get_secret_value() for f in pool.map(_load, range(8))}
    (key,) = keys
    assert len(key) == 64
    assert mode(home() / "settings.env") == 0o600
    _set("SEQLINE_PRESET=tiny")
    assert mode(home() / "settings.env") == 0o600
    monkeypatch.setenv("SEQLINE_PSEUDONYM_KEY", "")  # set to nothing is not set
    settings = load_settings()
    assert settings.preset == "tiny"
    assert settings.pseudonym_key.get_secret_value() == key
    monkeypatch.setenv("SEQLINE_PSEUDONYM_KEY", "ab" * 32)
    assert load_settings().pseudonym_key.get_secret_value() == "ab" * 32


def _load(_: int):
    return load_settings()


def _set(line: str) -> None:
    with (home() / SETTINGS_FILE).open("a") as file:
        file.write(f"{line}\n")


def test_a_weak_key_and_an_unknown_setting_are_refused_without_showing_the_key(monkeypatch):
    for key in ("secret-word", "abcd", "0" * 200):
        monkeypatch.setenv("SEQLINE_PSEUDONYM_KEY", key)
        with pytest.raises(ValidationError, match="32 to 128 hex digits") as caught:
            load_settings()
        assert key not in str(caught.value)
    monkeypatch.setenv("SEQLINE_PSEUDONYM_KEY", "ab" * 32)
    _set("SEQLINE_PRESETT=tiny")
    with pytest.raises(ValidationError, match="presett"):
        load_settings()
