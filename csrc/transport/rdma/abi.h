// What this transport uses of libibverbs, declared by its binary interface, which has not changed since its
// symbols were given the version IBVERBS_1.1. The library is loaded at run time (library.h), so one wheel
// serves hosts with and without RDMA and its build needs no headers. Names without the prefix ibv_ are those
// of the manual pages; fields that we do not use keep their place. `e2e/rdma/abi_check.cpp` compares every
// offset with rdma-core's header.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <cstdint>

namespace tent::transport::rdma::abi {

struct Device;
struct ProtectionDomain;  // struct ibv_pd
struct CompletionQueue;   // struct ibv_cq, of which we read nothing
struct SharedQueue;       // struct ibv_srq
struct Context;

union Gid {
    uint8_t raw[16];
    struct {
        uint64_t subnet_prefix, interface_id;
    } global;
};

enum PortState : int { kPortDown = 1, kPortActive = 4 };
enum LinkLayer : uint8_t { kUnspecified = 0, kInfiniBand = 1, kEthernet = 2 };
enum Access : int {
    kLocalWrite = 1,
    kRemoteWrite = 2,
    kRemoteRead = 4,
    kRelaxedOrdering = 1 << 20,
};
enum QpType : int { kReliable = 2 };
enum QpState : int { kReset = 0, kInit = 1, kReadyToReceive = 2, kReadyToSend = 3, kError = 6 };
enum QpMask : int {
    kState = 1 << 0,
    kAccessFlags = 1 << 3,
    kPkeyIndex = 1 << 4,
    kPort = 1 << 5,
    kAddress = 1 << 7,
    kPathMtu = 1 << 8,
    kTimeout = 1 << 9,
    kRetryCount = 1 << 10,
    kRnrRetry = 1 << 11,
    kReceivePsn = 1 << 12,
    kMaxReads = 1 << 13,
    kMinRnrTimer = 1 << 15,
    kSendPsn = 1 << 16,
    kMaxServedReads = 1 << 17,
    kPeerNumber = 1 << 20,
};
enum Opcode : int { kWrite = 0, kRead = 4 };
enum SendFlags : unsigned { kFence = 1, kSignaled = 2, kInline = 8 };
enum WcStatus : int {
    kSuccess = 0,
    kLocalLength = 1,
    kLocalQpOperation = 2,
    kLocalProtection = 4,
    kFlushed = 5,
    kRemoteInvalidRequest = 9,
    kRemoteAccess = 10,
    kRemoteOperation = 11,
    kRetryExceeded = 12,
    kRnrRetryExceeded = 13,
};
enum EventType : int {
    kCqError = 0,
    kQpFatal = 1,
    kQpRequestError = 2,
    kQpAccessError = 3,
    kDeviceFatal = 8,
    kPortActiveEvent = 9,
    kPortError = 10,
    kLidChange = 11,
    kPkeyChange = 12,
    kGidChange = 18,
};

struct DeviceAttributes {
    char firmware[64];
    uint64_t node_guid, sys_image_guid, max_mr_size, page_size_cap;
    uint32_t vendor_id, vendor_part_id, hw_ver;
    int max_qp, max_qp_wr;
    unsigned capability_flags;
    int max_sge, max_sge_rd, max_cq, max_cqe, max_mr, max_pd;
    int max_qp_rd_atom, max_ee_rd_atom, max_res_rd_atom, max_qp_init_rd_atom, max_ee_init_rd_atom;
    int atomic_cap;
    int max_ee, max_rdd, max_mw, max_raw_ipv6_qp, max_raw_ethy_qp;
    int max_mcast_grp, max_mcast_qp_attach, max_total_mcast_qp_attach;
    int max_ah, max_fmr, max_map_per_fmr, max_srq, max_srq_wr, max_srq_sge;
    uint16_t max_pkeys;
    uint8_t local_ca_ack_delay, phys_port_cnt;
};

struct PortAttributes {
    int state, max_mtu, active_mtu, gid_tbl_len;
    uint32_t port_cap_flags, max_msg_sz, bad_pkey_cntr, qkey_viol_cntr;
    uint16_t pkey_tbl_len, lid, sm_lid;
    uint8_t lmc, max_vl_num, sm_sl, subnet_timeout, init_type_reply, active_width, active_speed, phys_state;
    uint8_t link_layer, flags;
    uint16_t port_cap_flags2;
    uint32_t active_speed_ex;
};

struct GlobalRoute {
    Gid destination;
    uint32_t flow_label;
    uint8_t gid_index, hop_limit, traffic_class;
};

struct AddressVector {
    GlobalRoute route;
    uint16_t lid;
    uint8_t service_level, source_path_bits, static_rate, is_global, port;
};

struct QpCapacity {
    uint32_t max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data;
};

struct QpInitAttributes {
    void* context;
    CompletionQueue *send_cq, *recv_cq;
    SharedQueue* srq;
    QpCapacity capacity;
    int type;
    int signal_all;
};

struct QpAttributes {
    int state, current_state, path_mtu, path_mig_state;
    uint32_t qkey, receive_psn, send_psn, peer_number;
    int access;
    QpCapacity capacity;
    AddressVector address, alternative;
    uint16_t pkey_index, alternative_pkey_index;
    uint8_t notify_drained, draining;
    uint8_t max_reads, max_served_reads, min_rnr_timer, port;
    uint8_t timeout, retry_count, rnr_retry, alternative_port, alternative_timeout;
    uint32_t rate_limit;
};

struct QueuePair {
    Context* context;
    void* qp_context;
    ProtectionDomain* pd;
    CompletionQueue *send_cq, *recv_cq;
    SharedQueue* srq;
    uint32_t handle, number;
};

struct MemoryRegion {
    Context* context;
    ProtectionDomain* pd;
    void* address;
    size_t length;
    uint32_t handle, lkey, rkey;
};

struct CompletionChannel {
    Context* context;
    int fd, references;
};

struct Element {  // struct ibv_sge
    uint64_t address;
    uint32_t length, lkey;
};

struct SendRequest {  // struct ibv_send_wr
    uint64_t id;
    SendRequest* next;
    Element* elements;
    int count;
    int opcode;
    unsigned flags;
    uint32_t immediate;
    struct {
        uint64_t remote_address;
        uint32_t rkey;
    } rdma;
    uint64_t unused[9];  // the rest of its unions: atomics, datagrams, windows, segmentation
};

struct Completion {  // struct ibv_wc
    uint64_t id;
    int status, opcode;
    uint32_t vendor_error, bytes, immediate, qp_number, source_qp;
    unsigned flags;
    uint16_t pkey_index, source_lid;
    uint8_t service_level, path_bits;
};

struct AsyncEvent {
    union {
        CompletionQueue* cq;
        QueuePair* qp;
        SharedQueue* srq;
        int port;
    } element;
    int type;
};

// The calls that every provider implements itself: reached through the context, as verbs.h does it.
struct Operations {
    void* unused0[11];
    int (*poll_cq)(CompletionQueue*, int, Completion*);
    int (*request_notification)(CompletionQueue*, int solicited_only);
    void* unused1[12];
    int (*post_send)(QueuePair*, SendRequest*, SendRequest** bad);
    void* unused2[6];
};

struct Context {
    Device* device;
    Operations operations;
    int command_fd, async_fd, completion_vectors;
    pthread_mutex_t mutex;
    void* compatibility;
};

}  // namespace tent::transport::rdma::abi
