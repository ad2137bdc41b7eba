"""The two hooks, on the argparse and controller shapes that SGLang has."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import types

import pytest

from tent_sglang import plugin


def parser_with_flag(**kwargs):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--hicache-storage-backend", **kwargs)
    return parser


def test_the_flag_accepts_tent_and_still_refuses_typos():
    parser = parser_with_flag(choices=["file", "dynamic"])
    assert plugin.offer_choice("result", parser) == "result"
    plugin.offer_choice(None, parser)
    assert parser.parse_args(["--hicache-storage-backend", "tent"]).hicache_storage_backend == "tent"
    assert parser._option_string_actions[plugin.FLAG].choices == ["file", "dynamic", "tent"]
    with pytest.raises(argparse.ArgumentError):
        parser.parse_args(["--hicache-storage-backend", "tnet"])


@pytest.mark.parametrize("parser", [parser_with_flag(), argparse.ArgumentParser()])
def test_a_parser_without_choices_or_without_the_flag_is_left_alone(parser):
    plugin.offer_choice(None, parser)


class Backend:
    def __init__(self):
        self.followed = None

    def follow_stop_event(self, event):
        self.followed = event


class Controller:
    """What the hook sees of SGLang's HiCacheController."""

    def __init__(self, backend):
        self.storage_backend_type = None
        self.storage_stop_event = threading.Event()
        self.storage_backend = backend
        self.seen = None

    def attach(
        self, storage_backend, prefetch_threshold=256, model_name=None, storage_backend_extra_config=None
    ):
        self.storage_backend_type = storage_backend
        self.seen = (storage_backend, prefetch_threshold, model_name, storage_backend_extra_config)
        return "attached"


@pytest.mark.parametrize("by_position", [True, False])
def test_tent_goes_through_the_dynamic_loader_and_keeps_its_name(by_position):
    controller = Controller(Backend())
    extra = {"directory": {"url": ""}}
    if by_position:
        result = plugin.attach(Controller.attach, controller, "tent", 64, "model", extra)
    else:
        result = plugin.attach(
            Controller.attach,
            controller,
            storage_backend="tent",
            prefetch_threshold=64,
            model_name="model",
            storage_backend_extra_config=extra,
        )
    assert result == "attached"
    assert controller.seen == ("dynamic", 64, "model", {**extra, **plugin.DYNAMIC_LOADER})
    assert extra == {"directory": {"url": ""}}, "the caller's config is not written to"
    assert controller.storage_backend_type == "tent"
    assert controller.storage_backend.followed is controller.storage_stop_event


def test_the_stop_event_reaches_the_backend_behind_sglangs_fault_injector():
    inner = Backend()
    controller = Controller(types.SimpleNamespace(_backend=inner))
    plugin.attach(Controller.attach, controller, storage_backend="tent")
    assert inner.followed is controller.storage_stop_event


def test_other_backends_pass_untouched():
    controller = Controller(object())
    plugin.attach(Controller.attach, controller, storage_backend="file", storage_backend_extra_config=None)
    assert controller.seen == ("file", 256, None, None)
    assert controller.storage_backend_type == "file"


def test_a_failed_attachment_is_the_callers_and_leaves_no_name():
    def refuse(controller, **kwargs):
        raise ValueError("no")

    controller = Controller(None)
    with pytest.raises(ValueError, match="no"):
        plugin.attach(refuse, controller, storage_backend="tent")
    assert controller.storage_backend_type is None


def test_the_package_and_its_plugin_import_without_sglang_and_torch():
    block = (
        "import sys\n"
        "for name in ('sglang', 'torch'): sys.modules[name] = None\n"
        "import tent_sglang, tent_sglang.plugin, tent_sglang.identity, tent_sglang.pool\n"
    )
    subprocess.run([sys.executable, "-c", block], check=True)
