// What transport/rdma/abi.h says of libibverbs, held against rdma-core's own header. Compiles, or does not.
#include <infiniband/verbs.h>

#include "transport/rdma/abi.h"

namespace abi = tent::transport::rdma::abi;

#define SAME_SIZE(ours, theirs) static_assert(sizeof(ours) == sizeof(theirs), #ours)
#define SAME(ours, our_field, theirs, their_field)                                                   \
    static_assert(offsetof(ours, our_field) == offsetof(theirs, their_field), #ours "." #our_field); \
    static_assert(sizeof(ours::our_field) == sizeof(theirs::their_field), #ours "." #our_field)
#define VALUE(ours, theirs) static_assert(static_cast<int>(ours) == static_cast<int>(theirs), #ours)

SAME(abi::Operations, poll_cq, ibv_context_ops, poll_cq);
SAME(abi::Operations, request_notification, ibv_context_ops, req_notify_cq);
SAME(abi::Operations, post_send, ibv_context_ops, post_send);
SAME_SIZE(abi::Operations, ibv_context_ops);
SAME(abi::Context, operations, ibv_context, ops);
SAME(abi::Context, command_fd, ibv_context, cmd_fd);
SAME(abi::Context, async_fd, ibv_context, async_fd);

SAME(abi::DeviceAttributes, max_mr_size, ibv_device_attr, max_mr_size);
SAME(abi::DeviceAttributes, max_qp_wr, ibv_device_attr, max_qp_wr);
SAME(abi::DeviceAttributes, max_sge, ibv_device_attr, max_sge);
SAME(abi::DeviceAttributes, max_sge_rd, ibv_device_attr, max_sge_rd);
SAME(abi::DeviceAttributes, max_cqe, ibv_device_attr, max_cqe);
SAME(abi::DeviceAttributes, max_qp_rd_atom, ibv_device_attr, max_qp_rd_atom);
SAME(abi::DeviceAttributes, max_qp_init_rd_atom, ibv_device_attr, max_qp_init_rd_atom);
SAME(abi::DeviceAttributes, phys_port_cnt, ibv_device_attr, phys_port_cnt);
SAME_SIZE(abi::DeviceAttributes, ibv_device_attr);

SAME(abi::PortAttributes, state, ibv_port_attr, state);
SAME(abi::PortAttributes, active_mtu, ibv_port_attr, active_mtu);
SAME(abi::PortAttributes, max_msg_sz, ibv_port_attr, max_msg_sz);
SAME(abi::PortAttributes, lid, ibv_port_attr, lid);
SAME(abi::PortAttributes, link_layer, ibv_port_attr, link_layer);
static_assert(sizeof(abi::PortAttributes) >= sizeof(ibv_port_attr));

SAME(abi::GlobalRoute, gid_index, ibv_global_route, sgid_index);
SAME(abi::GlobalRoute, traffic_class, ibv_global_route, traffic_class);
SAME(abi::AddressVector, service_level, ibv_ah_attr, sl);
SAME(abi::AddressVector, is_global, ibv_ah_attr, is_global);
SAME(abi::AddressVector, port, ibv_ah_attr, port_num);
SAME_SIZE(abi::AddressVector, ibv_ah_attr);
SAME(abi::QpInitAttributes, capacity, ibv_qp_init_attr, cap);
SAME(abi::QpInitAttributes, type, ibv_qp_init_attr, qp_type);
SAME_SIZE(abi::QpInitAttributes, ibv_qp_init_attr);

SAME(abi::QpAttributes, state, ibv_qp_attr, qp_state);
SAME(abi::QpAttributes, path_mtu, ibv_qp_attr, path_mtu);
SAME(abi::QpAttributes, receive_psn, ibv_qp_attr, rq_psn);
SAME(abi::QpAttributes, send_psn, ibv_qp_attr, sq_psn);
SAME(abi::QpAttributes, peer_number, ibv_qp_attr, dest_qp_num);
SAME(abi::QpAttributes, access, ibv_qp_attr, qp_access_flags);
SAME(abi::QpAttributes, address, ibv_qp_attr, ah_attr);
SAME(abi::QpAttributes, pkey_index, ibv_qp_attr, pkey_index);
SAME(abi::QpAttributes, max_reads, ibv_qp_attr, max_rd_atomic);
SAME(abi::QpAttributes, max_served_reads, ibv_qp_attr, max_dest_rd_atomic);
SAME(abi::QpAttributes, min_rnr_timer, ibv_qp_attr, min_rnr_timer);
SAME(abi::QpAttributes, port, ibv_qp_attr, port_num);
SAME(abi::QpAttributes, timeout, ibv_qp_attr, timeout);
SAME(abi::QpAttributes, retry_count, ibv_qp_attr, retry_cnt);
SAME(abi::QpAttributes, rnr_retry, ibv_qp_attr, rnr_retry);
SAME_SIZE(abi::QpAttributes, ibv_qp_attr);

SAME(abi::QueuePair, number, ibv_qp, qp_num);
SAME(abi::MemoryRegion, lkey, ibv_mr, lkey);
SAME(abi::MemoryRegion, rkey, ibv_mr, rkey);
SAME_SIZE(abi::MemoryRegion, ibv_mr);
SAME(abi::CompletionChannel, fd, ibv_comp_channel, fd);
SAME_SIZE(abi::Element, ibv_sge);
SAME(abi::SendRequest, next, ibv_send_wr, next);
SAME(abi::SendRequest, elements, ibv_send_wr, sg_list);
SAME(abi::SendRequest, count, ibv_send_wr, num_sge);
SAME(abi::SendRequest, opcode, ibv_send_wr, opcode);
SAME(abi::SendRequest, flags, ibv_send_wr, send_flags);
SAME(abi::SendRequest, rdma.remote_address, ibv_send_wr, wr.rdma.remote_addr);
SAME(abi::SendRequest, rdma.rkey, ibv_send_wr, wr.rdma.rkey);
SAME_SIZE(abi::SendRequest, ibv_send_wr);
SAME(abi::Completion, status, ibv_wc, status);
SAME(abi::Completion, bytes, ibv_wc, byte_len);
SAME(abi::Completion, qp_number, ibv_wc, qp_num);
SAME_SIZE(abi::Completion, ibv_wc);
SAME(abi::AsyncEvent, type, ibv_async_event, event_type);
SAME_SIZE(abi::AsyncEvent, ibv_async_event);

VALUE(abi::kPortActive, IBV_PORT_ACTIVE);
VALUE(abi::kEthernet, IBV_LINK_LAYER_ETHERNET);
VALUE(abi::kLocalWrite, IBV_ACCESS_LOCAL_WRITE);
VALUE(abi::kRemoteWrite, IBV_ACCESS_REMOTE_WRITE);
VALUE(abi::kRemoteRead, IBV_ACCESS_REMOTE_READ);
VALUE(abi::kReliable, IBV_QPT_RC);
VALUE(abi::kInit, IBV_QPS_INIT);
VALUE(abi::kReadyToReceive, IBV_QPS_RTR);
VALUE(abi::kReadyToSend, IBV_QPS_RTS);
VALUE(abi::kError, IBV_QPS_ERR);
VALUE(abi::kState, IBV_QP_STATE);
VALUE(abi::kAccessFlags, IBV_QP_ACCESS_FLAGS);
VALUE(abi::kPkeyIndex, IBV_QP_PKEY_INDEX);
VALUE(abi::kPort, IBV_QP_PORT);
VALUE(abi::kAddress, IBV_QP_AV);
VALUE(abi::kPathMtu, IBV_QP_PATH_MTU);
VALUE(abi::kTimeout, IBV_QP_TIMEOUT);
VALUE(abi::kRetryCount, IBV_QP_RETRY_CNT);
VALUE(abi::kRnrRetry, IBV_QP_RNR_RETRY);
VALUE(abi::kReceivePsn, IBV_QP_RQ_PSN);
VALUE(abi::kMaxReads, IBV_QP_MAX_QP_RD_ATOMIC);
VALUE(abi::kMinRnrTimer, IBV_QP_MIN_RNR_TIMER);
VALUE(abi::kSendPsn, IBV_QP_SQ_PSN);
VALUE(abi::kMaxServedReads, IBV_QP_MAX_DEST_RD_ATOMIC);
VALUE(abi::kPeerNumber, IBV_QP_DEST_QPN);
VALUE(abi::kWrite, IBV_WR_RDMA_WRITE);
VALUE(abi::kRead, IBV_WR_RDMA_READ);
VALUE(abi::kFence, IBV_SEND_FENCE);
VALUE(abi::kSignaled, IBV_SEND_SIGNALED);
VALUE(abi::kInline, IBV_SEND_INLINE);
VALUE(abi::kLocalQpOperation, IBV_WC_LOC_QP_OP_ERR);
VALUE(abi::kLocalProtection, IBV_WC_LOC_PROT_ERR);
VALUE(abi::kFlushed, IBV_WC_WR_FLUSH_ERR);
VALUE(abi::kRemoteInvalidRequest, IBV_WC_REM_INV_REQ_ERR);
VALUE(abi::kRemoteAccess, IBV_WC_REM_ACCESS_ERR);
VALUE(abi::kRemoteOperation, IBV_WC_REM_OP_ERR);
VALUE(abi::kRetryExceeded, IBV_WC_RETRY_EXC_ERR);
VALUE(abi::kDeviceFatal, IBV_EVENT_DEVICE_FATAL);
VALUE(abi::kPortActiveEvent, IBV_EVENT_PORT_ACTIVE);
VALUE(abi::kPortError, IBV_EVENT_PORT_ERR);
VALUE(abi::kLidChange, IBV_EVENT_LID_CHANGE);
VALUE(abi::kPkeyChange, IBV_EVENT_PKEY_CHANGE);
VALUE(abi::kGidChange, IBV_EVENT_GID_CHANGE);
