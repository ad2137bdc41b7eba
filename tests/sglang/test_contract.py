"""An unknown SGLang is compared with what the connector answers to, before anything runs."""

from __future__ import annotations

import pytest

from tent_core.errors import Unsupported
from tent_sglang.contract import _LATER, _NEEDED, TESTED, check, differences


def interface(**more):
    """A class with the calls of the releases that were tested, and more."""
    calls = {}
    for name, parameters in {**_NEEDED, **_LATER}.items():
        source = f"def {name}(self{''.join(', ' + p for p in parameters)}): ..."
        exec(source, {}, calls)
    return type("HiCacheStorage", (), {**calls, **more})


def test_the_known_interface_fits():
    assert differences(interface(), object) == ([], [])
    check("9.9", interface(), object)


def test_what_is_new_is_said_and_what_breaks_is_refused(caplog):
    def batch_get_v1(self, keys, host_indices, where): ...

    def pin(self, keys): ...

    with caplog.at_level("INFO", logger="tent.sglang"):
        check("9.9", interface(pin=pin), object)
    assert "SGLang 9.9 was not tested" in caplog.text and "pin() is new" in caplog.text
    with pytest.raises(Unsupported, match=r"SGLang 9\.9.*batch_get_v1\(\) is called with where"):
        check("9.9", interface(batch_get_v1=batch_get_v1), object)
    check(next(iter(TESTED)), interface(batch_get_v1=batch_get_v1), object)


def test_a_call_that_must_be_answered_or_is_gone_is_named():
    def migrate(self): ...

    changed = interface(migrate=migrate)
    changed.__abstractmethods__ = frozenset({"migrate"})
    del changed.clear
    breaking, _ = differences(changed, object)
    assert breaking == ["migrate() is new and must be answered", "clear() is gone"]


def test_older_releases_lack_the_later_calls():
    old = interface()
    for name in _LATER:
        delattr(old, name)
    assert differences(old, object) == ([], [])
