#include "transport/rdma/library.h"

#include <dlfcn.h>

namespace tent::transport::rdma {
namespace {

constexpr const char* kInstall =
    "install rdma-core's user library (Debian, Ubuntu: apt-get install ibverbs-providers)";

Result<const Library*> load() {
    void* handle = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        const char* why = dlerror();
        return {Code::unsupported,
                std::string("libibverbs cannot be loaded (") + (why ? why : "?") + "): " + kInstall};
    }
    static Library lib;
    std::string missing;
    auto find = [&](auto& member, const char* name) {
        // These have an older form, too, which nobody has used since 2008.
        void* symbol = dlvsym(handle, name, "IBVERBS_1.1");
        if (symbol == nullptr) symbol = dlsym(handle, name);
        if (symbol == nullptr && missing.empty()) missing = name;
        member = reinterpret_cast<std::remove_reference_t<decltype(member)>>(symbol);
    };
    find(lib.get_device_list, "ibv_get_device_list");
    find(lib.free_device_list, "ibv_free_device_list");
    find(lib.get_device_name, "ibv_get_device_name");
    find(lib.open_device, "ibv_open_device");
    find(lib.close_device, "ibv_close_device");
    find(lib.query_device, "ibv_query_device");
    find(lib.query_port, "ibv_query_port");
    find(lib.alloc_pd, "ibv_alloc_pd");
    find(lib.dealloc_pd, "ibv_dealloc_pd");
    find(lib.reg_mr, "ibv_reg_mr");
    find(lib.dereg_mr, "ibv_dereg_mr");
    find(lib.create_comp_channel, "ibv_create_comp_channel");
    find(lib.destroy_comp_channel, "ibv_destroy_comp_channel");
    find(lib.create_cq, "ibv_create_cq");
    find(lib.destroy_cq, "ibv_destroy_cq");
    find(lib.get_cq_event, "ibv_get_cq_event");
    find(lib.ack_cq_events, "ibv_ack_cq_events");
    find(lib.create_qp, "ibv_create_qp");
    find(lib.modify_qp, "ibv_modify_qp");
    find(lib.destroy_qp, "ibv_destroy_qp");
    find(lib.get_async_event, "ibv_get_async_event");
    find(lib.ack_async_event, "ibv_ack_async_event");
    find(lib.fork_init, "ibv_fork_init");
    if (!missing.empty())
        return {Code::unsupported, "libibverbs has no " + missing + ": it is too old, " + kInstall};
    return &lib;
}

}  // namespace

Result<const Library*> library() {
    static const Result<const Library*> loaded = load();
    return loaded;
}

}  // namespace tent::transport::rdma
