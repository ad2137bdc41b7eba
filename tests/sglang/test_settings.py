"""The extra config's JSON: what is TENT's, what is the connector's, what is SGLang's."""

from __future__ import annotations

import pytest

from tent_core.errors import ConfigError
from tent_sglang.plugin import DYNAMIC_LOADER
from tent_sglang.settings import Settings, split_extra_config


def test_nothing_given_is_the_defaults():
    assert split_extra_config(None) == ({}, Settings())


def test_sglangs_own_keys_do_not_reach_tents_configuration():
    extra = {**DYNAMIC_LOADER, "prefetch_threshold": 128, "directory": {"url": "redis://h:1"}}
    assert split_extra_config(extra)[0] == {"directory": {"url": "redis://h:1"}}
    assert extra["prefetch_threshold"] == 128, "the caller's dict is left alone"


def test_the_connectors_section():
    _, settings = split_extra_config({"sglang": {"get_timeout_ms": 250}})
    assert settings == Settings(get_timeout_ms=250)
    assert split_extra_config({"sglang": {"load": "always"}})[1].load == "always"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"get_timeout": 5}, r"sglang\.get_timeout; did you mean sglang\.get_timeout_ms\?"),
        ({"zzz": 5}, r"known: get_timeout_ms, load, put_timeout_ms"),
        ({"load": "sometimes"}, "sglang.load: expected auto or always, got 'sometimes'"),
        ({"get_timeout_ms": 0}, "positive number of milliseconds, got 0"),
        ({"get_timeout_ms": "5 s"}, "positive number"),
        ({"get_timeout_ms": True}, "positive number"),
        ([], "expected a JSON object, got list"),
    ],
)
def test_bad_settings_name_the_key_and_the_fix(section, message):
    with pytest.raises(ConfigError, match=message):
        split_extra_config({"sglang": section})
