"""Lets SGLang's HiCache run with `--device cpu`. An SGLang plug-in for tests; never shipped.

HiCache moves pages between "device" and host pools with compiled kernels that have no CPU build, and pins its host
memory, which needs a GPU driver. Here the copies are torch indexing and nothing is pinned.
Active only with SGLANG_USE_CPU_ENGINE=1.
"""

import inspect
import os
import sys

POOLS = "sglang.srt.mem_cache.pool_host."


def _rows(view, indices, page_size):
    """Index of token slots `indices` in one layer's host view: (slots, ...) or (pages, page_size, ...)."""
    return (indices // page_size, indices % page_size) if view.dim() == 4 else (indices,)


def _mha_buffers(pool, device_pool):
    keys = getattr(pool, "device_k_buffers", None) or device_pool.k_buffer
    values = getattr(pool, "device_v_buffers", None) or device_pool.v_buffer
    return (keys, pool.k_data_refs), (values, pool.v_data_refs)


def mha_load(self, device_pool, host_indices, device_indices, layer_id, io_backend, *, is_draft=False):
    if not is_draft and not 0 <= layer_id < getattr(self, "target_layer_num", self.layer_num):
        return
    for device, host in _mha_buffers(self, device_pool):
        view = host[layer_id]
        device[layer_id][device_indices] = view[_rows(view, host_indices, self.page_size)]


def mha_backup(self, device_pool, host_indices, device_indices, io_backend):
    for device, host in _mha_buffers(self, device_pool):
        for layer in range(self.layer_num):
            view = host[layer]
            view[_rows(view, host_indices, self.page_size)] = device[layer][device_indices]


def mla_load(self, device_pool, host_indices, device_indices, layer_id, io_backend, *, is_draft=False):
    if not is_draft and layer_id not in self._target_layer_indices:
        return
    view = self.data_refs[self._host_layer_by_controller[layer_id]]
    device = self.device_kv_buffers[self._buffer_index_by_layer[layer_id]]
    device[device_indices] = view[_rows(view, host_indices, self.page_size)]


def mla_backup(self, device_pool, host_indices, device_indices, io_backend):
    for view, device in zip(self.data_refs, self.device_kv_buffers, strict=False):
        view[_rows(view, host_indices, self.page_size)] = device[device_indices]


def mamba_copy(src, dst, src_indices, dst_indices, io_backend):
    dst[dst_indices] = src[src_indices]


def mamba_page_to_layer(src, dst, src_indices, dst_indices, layer_id, num_layers, io_backend):
    dst[dst_indices] = src[src_indices, layer_id, 0]


def mamba_layers_to_page(src_layers, dst, src_indices, dst_indices, num_layers, io_backend, *_, **__):
    for layer in range(num_layers):
        dst[dst_indices, layer, 0] = src_layers[layer][src_indices]


def without_pinning(original, *args, **kwargs):
    bound = inspect.signature(original).bind(*args, **kwargs)
    bound.arguments["pin_memory"] = False
    return original(*bound.args, **bound.kwargs)


def on_device_indices(result, *args, **kwargs):
    """Prefill/decode: host index tensors would take a path of pinned memory and CUDA events."""
    if getattr(result, "supports_host_tensor_indices", False):
        result.supports_host_tensor_indices = False


def absorbed_mla(result, *args, **kwargs):
    """The torch_native attention runs only the absorbed form of MLA."""
    from sglang.srt.models.deepseek_common.attention_backend_handler import _dispatch_mla_subtype

    return _dispatch_mla_subtype


def register() -> None:
    if os.getenv("SGLANG_USE_CPU_ENGINE") != "1":
        return
    # Where the environment's installation compiled SGLang's page hash.
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(sys.prefix, "torch_extensions"))
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    add = HookRegistry.register
    for pool, load, backup in (
        ("mha.MHATokenToKVPoolHost", mha_load, mha_backup),
        ("mla.MLATokenToKVPoolHost", mla_load, mla_backup),
    ):
        add(f"{POOLS}{pool}.load_to_device_per_layer", load, HookType.REPLACE)
        add(f"{POOLS}{pool}.backup_from_device_all_layer", backup, HookType.REPLACE)
    add(f"{POOLS}base.HostKVCache.__init__", without_pinning, HookType.AROUND)
    add("sglang.srt.disaggregation.utils.get_kv_class", on_device_indices, HookType.AFTER)
    mamba = f"{POOLS}mamba.MambaPoolHost."
    add(f"{mamba}__init__", without_pinning, HookType.AROUND)
    add(f"{mamba}_copy_tensor", mamba_copy, HookType.REPLACE)
    add(f"{mamba}_copy_tensor_pf_lf", mamba_page_to_layer, HookType.REPLACE)
    add(f"{mamba}_copy_tensor_all_layers_lf_pf", mamba_layers_to_page, HookType.REPLACE)
    handler = "sglang.srt.models.deepseek_common.attention_backend_handler.AttentionBackendRegistry.get_handler"
    add(handler, absorbed_mla, HookType.AFTER)
