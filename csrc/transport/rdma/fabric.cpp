#include "transport/rdma/fabric.h"

#include <errno.h>

#include <cstring>

#include "base/log.h"

namespace tent::transport::rdma {

Fabric::Fabric(Poller& poller, const Options& options, const Regions& regions, Id128 incarnation,
               std::function<void()> changed)
    : poller_(poller),
      options_(options),
      regions_(regions),
      changed_(std::move(changed)),
      connector_(poller),
      registrar_(poller),
      memory_(registrar_) {
    std::memcpy(proof_, incarnation.data(), incarnation.size());
}

Fabric::~Fabric() {
    stop();
    for (auto& [domain, region] : proofs_) {
        for (auto& [name, d] : devices_) {
            if (d->domain() == domain) d->lib().dereg_mr(region);
        }
    }
    memory_.clear();
}

void Fabric::stop() {
    connector_.stop();
    registrar_.stop();
}

void Fabric::abandon() {
    connector_.abandon();
    registrar_.abandon();
}

Status Fabric::start() {
    if (started_) return Status::good();
    for (Worker* w : {&connector_, &registrar_}) {
        if (Status s = w->start(); !s.ok()) return s;
    }
    started_ = true;
    return Status::good();
}

Device* Fabric::device(const std::string& name, std::string& why) {
    auto it = devices_.find(name);
    if (it != devices_.end()) return it->second.get();
    if (auto bad = unusable_.find(name); bad != unusable_.end()) {
        why = bad->second;
        return nullptr;
    }
    Result<const Library*> lib = library();
    Status s = lib.status();
    auto made = std::unique_ptr<Device>();
    if (s.ok()) {
        const Library& l = **lib;
        l.fork_init();  // children must not share pinned pages; kernels since 5.12 see to it themselves
        s = Status(Code::unsupported, "libibverbs does not know device " + name +
                                          ": is its provider installed (ibverbs-providers)?");
        int count = 0;
        abi::Device** list = l.get_device_list(&count);
        for (int i = 0; list != nullptr && i < count; ++i) {
            if (name != l.get_device_name(list[i])) continue;
            made = std::make_unique<Device>(poller_, l, name, static_cast<uint32_t>(devices_.size()),
                                            [this](Device& d, const std::string& what, uint8_t, bool lost) {
                                                log(lost ? LogLevel::warning : LogLevel::info,
                                                    "RDMA device " + d.name() + ": " + what);
                                                refresh();
                                                changed_();
                                            });
            s = made->open(list[i]);
        }
        if (list != nullptr) l.free_device_list(list);
    }
    if (s.ok()) s = start();
    if (!s.ok()) {
        why = unusable_[name] = s.message();
        return nullptr;
    }
    return (devices_[name] = std::move(made)).get();
}

const Port* Fabric::look_up(const std::string& address, const Id128& gid, std::string& why) {
    std::vector<GidEntry> table = gid_table();
    const GidEntry* best = nullptr;
    bool other_type = false;
    for (const GidEntry& e : table) {
        if (e.gid != gid) continue;
        if (e.type == "RoCE v2" && best == nullptr) best = &e;
        other_type = other_type || e.type != "RoCE v2";
    }
    if (best == nullptr) {
        why = table.empty() ? "no RDMA device in /sys/class/infiniband"
              : other_type  ? "its GID is of RoCE v1 only, which does not pass routers: TENT uses RoCE v2"
                            : "no RDMA port has a GID of that address";
        return nullptr;
    }
    Device* d = device(best->device, why);
    if (d == nullptr) return nullptr;
    abi::PortAttributes a{};
    if (d->lib().query_port(d->context(), best->port, &a) != 0) {
        why = "RDMA device " + d->name() + " does not answer for port " + std::to_string(best->port);
        return nullptr;
    }
    std::string what = d->name() + " port " + std::to_string(best->port);
    if (a.state != abi::kPortActive) {
        why = what + " is not active";
        return nullptr;
    }
    Known& k = ports_[address];
    k.port.device = d;
    k.port.number = best->port;
    k.port.gid_index = best->index;
    k.port.gid = gid;
    k.port.mtu = static_cast<uint8_t>(a.active_mtu);
    k.port.lid = a.lid;
    k.port.max_message = a.max_msg_sz;
    why = what + ", GID index " + std::to_string(best->index) + " (RoCE v2 of that address), MTU " +
          std::to_string(128 << a.active_mtu);
    return &k.port;
}

const Port* Fabric::port_of(const std::string& address, std::string& why) {
    auto it = ports_.find(address);
    if (it != ports_.end()) {
        why = it->second.why;
        return it->second.found ? &it->second.port : nullptr;
    }
    Id128 gid{};
    if (!gid_of(address, gid)) {
        why = "'" + address + "' is no address";
        return nullptr;
    }
    addresses_[gid] = address;
    const Port* found = look_up(address, gid, why);
    Known& k = ports_[address];
    k.gid = gid;
    k.found = found != nullptr;
    k.why = why;
    std::string& said = logged_[address];
    if (any() && said != why)
        log(LogLevel::info, "rail " + address + (found ? ": RDMA by " : ": no RDMA: ") + why);
    said = why;
    return found ? &k.port : nullptr;
}

const Port* Fabric::port_of(const Id128& gid) {
    auto it = addresses_.find(gid);
    std::string why;
    return it == addresses_.end() ? nullptr : port_of(it->second, why);
}

const abi::MemoryRegion* Fabric::proof(Device& device) {
    abi::MemoryRegion*& region = proofs_[device.domain()];
    if (region == nullptr) region = device.lib().reg_mr(device.pd(), proof_, sizeof proof_, abi::kRemoteRead);
    return region;
}

}  // namespace tent::transport::rdma
