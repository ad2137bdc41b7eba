"""TENT as a KV connector of vLLM.

    --kv-transfer-config '{"kv_connector": "TentConnector", "kv_role": "kv_both",
                           "kv_load_failure_policy": "recompute"}'

vLLM finds :mod:`tent_vllm.plugin` through its entry point group ``vllm.general_plugins``; where the package's entry
points are not installed, add ``"kv_connector_module_path": "tent_vllm.connector"``. Importing this package needs
neither vLLM nor torch.

``connector`` is the class vLLM sees and holds no logic; ``scheduler`` and ``worker`` are its two roles and know
nothing of vLLM's classes; ``plan`` is what the first tells the second each step.
"""

from __future__ import annotations

__all__: list[str] = []
