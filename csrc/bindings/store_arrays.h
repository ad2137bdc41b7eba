// Shared by the binding files of the page store: batches as numpy arrays, checked once here, so that nothing
// below has to. Digests are uint8[N, 16], addresses and lengths uint64[N, P]; statuses come back as uint8[N].
#pragma once

#include <optional>

#include "bindings/bindings.h"
#include "store/store.h"

namespace tent::bindings {

using Digests = Array<uint8_t>;
using Words = Array<uint64_t>;
using StatusArray = py::array_t<uint8_t>;

// Raises InvalidArgument.
void require(bool good, const char* why);
Id128 id_of(const py::bytes& b);
py::bytes bytes_of(const Id128& id);
std::span<const Id128> ids(const Digests& digests);
// (N, 16), (N, P), (N, P), (N) or none.
store::PageBatch batch_of(const Digests& digests, const Words& addresses, const Words& lengths,
                          const std::optional<Words>& tokens,
                          const std::optional<Words>& token_values = std::nullopt);
// The engine's copying threads, or the caller alone once the engine is gone.
store::Executor executor_of(const std::shared_ptr<engine::Engine>& engine);

// (space, generation, digest, record) each, and (digest, record).
py::list published_list(const std::vector<store::Published>& pages);
py::list items_list(const std::vector<store::Published>& pages);
// A piece of a listing, as columns (bindings/pages.cpp).
py::tuple page_list(const proto::PageList& list);

struct Statuses {
    explicit Statuses(size_t n) : array(static_cast<py::ssize_t>(n)) {}
    std::span<store::PageStatus> span() {
        return {reinterpret_cast<store::PageStatus*>(array.mutable_data()),
                static_cast<size_t>(array.size())};
    }
    StatusArray array;
};

}  // namespace tent::bindings
