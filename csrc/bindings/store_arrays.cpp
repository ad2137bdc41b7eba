#include "bindings/store_arrays.h"

#include <algorithm>

namespace tent::bindings {

void require(bool good, const char* why) {
    if (!good) raise({Code::invalid_argument, why});
}

Id128 id_of(const py::bytes& b) {
    ByteView v = view(b);
    require(v.size() == 16, "a digest or incarnation has 16 bytes");
    Id128 id;
    std::copy(v.begin(), v.end(), id.begin());
    return id;
}

py::bytes bytes_of(const Id128& id) {
    return to_bytes(ByteView(id.data(), id.size()));
}

std::span<const Id128> ids(const Digests& digests) {
    static_assert(sizeof(Id128) == 16 && alignof(Id128) == 1);
    require(digests.ndim() == 2 && digests.shape(1) == 16, "digests are an array of shape (N, 16)");
    return {reinterpret_cast<const Id128*>(digests.data()), static_cast<size_t>(digests.shape(0))};
}

store::PageBatch batch_of(const Digests& digests, const Words& addresses, const Words& lengths,
                          const std::optional<Words>& tokens, const std::optional<Words>& token_values) {
    size_t n = ids(digests).size();
    require(addresses.ndim() == 2 && static_cast<size_t>(addresses.shape(0)) == n && addresses.shape(1) > 0,
            "addresses are an array of shape (N, P)");
    require(lengths.ndim() == 2 && lengths.shape(0) == addresses.shape(0) &&
                lengths.shape(1) == addresses.shape(1),
            "lengths have the shape of the addresses");
    require(!tokens || static_cast<size_t>(tokens->size()) == n, "tokens are one address per page");
    store::PageBatch b;
    b.count = n;
    b.parts = static_cast<size_t>(addresses.shape(1));
    b.digests = digests.data();
    b.addresses = addresses.data();
    b.lengths = lengths.data();
    require(!token_values || static_cast<size_t>(token_values->size()) == n, "token values are one per page");
    b.tokens = tokens ? tokens->data() : nullptr;
    b.token_values = token_values ? token_values->data() : nullptr;
    return b;
}

store::Executor executor_of(const std::shared_ptr<engine::Engine>& engine) {
    return [weak = std::weak_ptr<engine::Engine>(engine)](size_t n, const std::function<void(size_t)>& work) {
        if (auto e = weak.lock()) {
            e->copier().parallel(n, work);
        } else {
            for (size_t i = 0; i < n; ++i) work(i);
        }
    };
}

py::list published_list(const std::vector<store::Published>& pages) {
    py::list out;
    for (const store::Published& p : pages) {
        out.append(py::make_tuple(bytes_of(p.space), p.generation, bytes_of(p.digest), to_bytes(p.record)));
    }
    return out;
}

py::list items_list(const std::vector<store::Published>& pages) {
    py::list out;
    for (const store::Published& p : pages)
        out.append(py::make_tuple(bytes_of(p.digest), to_bytes(p.record)));
    return out;
}

}  // namespace tent::bindings
