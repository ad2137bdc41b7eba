// libibverbs, loaded when it is first needed and never unloaded: providers leave threads and handlers behind.
#pragma once

#include "base/status.h"
#include "transport/rdma/abi.h"

namespace tent::transport::rdma {

struct Library {
    abi::Device** (*get_device_list)(int*) = nullptr;
    void (*free_device_list)(abi::Device**) = nullptr;
    const char* (*get_device_name)(abi::Device*) = nullptr;
    abi::Context* (*open_device)(abi::Device*) = nullptr;
    int (*close_device)(abi::Context*) = nullptr;
    int (*query_device)(abi::Context*, abi::DeviceAttributes*) = nullptr;
    int (*query_port)(abi::Context*, uint8_t, abi::PortAttributes*) = nullptr;
    abi::ProtectionDomain* (*alloc_pd)(abi::Context*) = nullptr;
    int (*dealloc_pd)(abi::ProtectionDomain*) = nullptr;
    abi::MemoryRegion* (*reg_mr)(abi::ProtectionDomain*, void*, size_t, int) = nullptr;
    int (*dereg_mr)(abi::MemoryRegion*) = nullptr;
    abi::CompletionChannel* (*create_comp_channel)(abi::Context*) = nullptr;
    int (*destroy_comp_channel)(abi::CompletionChannel*) = nullptr;
    abi::CompletionQueue* (*create_cq)(abi::Context*, int, void*, abi::CompletionChannel*, int) = nullptr;
    int (*destroy_cq)(abi::CompletionQueue*) = nullptr;
    int (*get_cq_event)(abi::CompletionChannel*, abi::CompletionQueue**, void**) = nullptr;
    void (*ack_cq_events)(abi::CompletionQueue*, unsigned) = nullptr;
    abi::QueuePair* (*create_qp)(abi::ProtectionDomain*, abi::QpInitAttributes*) = nullptr;
    int (*modify_qp)(abi::QueuePair*, abi::QpAttributes*, int) = nullptr;
    int (*destroy_qp)(abi::QueuePair*) = nullptr;
    int (*get_async_event)(abi::Context*, abi::AsyncEvent*) = nullptr;
    void (*ack_async_event)(abi::AsyncEvent*) = nullptr;
    int (*fork_init)() = nullptr;
};

// The same one for everybody. unsupported: it is not installed, or too old; the message says what to install.
Result<const Library*> library();

}  // namespace tent::transport::rdma
