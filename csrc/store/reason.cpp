#include "store/reason.h"

namespace tent::store {

std::string_view status_name(PageStatus s) {
    switch (s) {
        case PageStatus::HIT:
            return "HIT";
        case PageStatus::STORED:
            return "STORED";
        case PageStatus::PRESENT:
            return "PRESENT";
        case PageStatus::PENDING:
            return "PENDING";
        case PageStatus::ABSENT:
            return "ABSENT";
        case PageStatus::DIRECTORY_DOWN:
            return "DIRECTORY_DOWN";
        case PageStatus::OWNER_UNREACHABLE:
            return "OWNER_UNREACHABLE";
        case PageStatus::STALE_INCARNATION:
            return "STALE_INCARNATION";
        case PageStatus::STALE_EPOCH:
            return "STALE_EPOCH";
        case PageStatus::CHECK_FAILED:
            return "CHECK_FAILED";
        case PageStatus::LENGTH_MISMATCH:
            return "LENGTH_MISMATCH";
        case PageStatus::CLEARED:
            return "CLEARED";
        case PageStatus::BAD_RECORD:
            return "BAD_RECORD";
        case PageStatus::NO_SPACE:
            return "NO_SPACE";
        case PageStatus::UNSTABLE:
            return "UNSTABLE";
        case PageStatus::TOO_LARGE:
            return "TOO_LARGE";
        case PageStatus::DEADLINE:
            return "DEADLINE";
        case PageStatus::CANCELLED:
            return "CANCELLED";
        case PageStatus::LINK_FAILED:
            return "LINK_FAILED";
        case PageStatus::REFUSED:
            return "REFUSED";
        case PageStatus::QUOTA:
            return "QUOTA";
        case PageStatus::CLOSED:
            return "CLOSED";
        case PageStatus::VERSION:
            return "VERSION";
        case PageStatus::INTERNAL:
            return "INTERNAL";
    }
    return "INTERNAL";
}

}  // namespace tent::store
