// How the fields of a checkpoint become bytes and back: one visitor of the state does both. What is read is
// hostile: a value that does not fit its type ends the reading.
#pragma once

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <type_traits>

#include "sched/sprayer.h"
#include "sched/varint.h"

namespace tent::sched {

constexpr Nanos kLongestTime = Nanos{1} << 60;  // 36 years: sums of a few cannot overflow
constexpr size_t kMaxName = 1024;

struct Save {
    static constexpr bool loads = false;
    Bytes& out;
    template <class T>
    void u(T& v) {
        uint8_t b[kMaxVarint];
        out.insert(out.end(), b, put_varint(b, static_cast<uint64_t>(v)));
    }
    void t(Nanos& v) {
        uint64_t z = zigzag(v);
        u(z);
    }
    void s(std::string& v) {
        size_t n = std::min(v.size(), kMaxName);
        u(n);
        out.insert(out.end(), v.begin(), v.begin() + static_cast<std::ptrdiff_t>(n));
    }
    // Of a list; each entry takes a byte at least.
    template <class V>
    void size(V& list) {
        size_t n = list.size();
        u(n);
    }
};

struct Load {
    static constexpr bool loads = true;
    VarReader in;
    const SliceShape& shape;
    template <class T>
    void u(T& v) {
        uint64_t raw = in.u();
        if constexpr (std::is_same_v<T, bool>) {
            if (raw > 1) in.fail();
            v = raw == 1;
        } else if constexpr (std::is_enum_v<T>) {
            if (raw > 255) in.fail();
            v = static_cast<T>(raw);
        } else {
            if (raw > static_cast<uint64_t>(std::numeric_limits<T>::max())) in.fail();
            v = in.ok() ? static_cast<T>(raw) : T{};
        }
    }
    void t(Nanos& v) {
        v = in.i();
        if (v != kNever && (v > kLongestTime || v < -kLongestTime)) in.fail();
    }
    void s(std::string& v) { v = in.str(kMaxName); }
    template <class V>
    void size(V& list) {
        uint64_t n = in.below(in.left() + 1);
        list.clear();
        list.resize(n);
    }
};

template <class A, class V>
void numbers(A& a, V& list) {
    a.size(list);
    for (auto& v : list) a.u(v);
}
template <class A>
void ids(A& a, std::set<uint32_t>& set) {
    std::vector<uint32_t> list(set.begin(), set.end());
    numbers(a, list);
    if constexpr (A::loads) set = {list.begin(), list.end()};
}
template <class A, class V>
void fixed(A& a, V& array) {
    for (auto& v : array) a.u(v);
}

}  // namespace tent::sched
