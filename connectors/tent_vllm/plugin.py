"""vLLM's plug-in entry point: makes the name ``TentConnector`` known to every process of vLLM."""

from __future__ import annotations

import logging

NAME = "TentConnector"
MODULE = "tent_vllm.connector"


def register() -> None:
    """Register the connector with vLLM. May be called any number of times; without vLLM it does nothing."""
    try:
        from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
    except ImportError as fault:
        # vLLM without KV connectors, or something else looking at the entry points: nothing to register with.
        logging.getLogger("tent.vllm").debug("TentConnector is not registered: %s", fault)
        return
    if NAME not in getattr(KVConnectorFactory, "_registry", {}):
        try:
            KVConnectorFactory.register_connector(NAME, MODULE, NAME)
        except ValueError:
            # Registered by somebody between the look and the call, or the registry has another name: the same end.
            logging.getLogger("tent.vllm").debug("TentConnector was registered before")
