// Every interleaving of a small world, breadth first, up to a depth: the shortest way to a violation, or
// none.
//
// A world is made anew and led along a path of moves, so that it may hold real objects that cannot be copied:
//   std::vector<std::string> moves()   what may happen next, by name, in a fixed order
//   void take(size_t move)             makes it happen
//   std::string violation()            empty while all is well
//   std::string state()                equal for worlds that behave alike from here on
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

namespace tent::test {

struct Explored {
    std::string violation;           // empty: none within the depth
    std::vector<std::string> story;  // the moves that lead to it
    size_t states = 0;
    std::string text() const {
        std::string out = violation + " after:";
        for (const std::string& move : story) out += "\n  " + move;
        return out;
    }
};

// TENT_TEST_EXPLORER_DEPTH adds to every depth: the long form.
inline int deeper() {
    const char* more = std::getenv("TENT_TEST_EXPLORER_DEPTH");
    return more == nullptr ? 0 : std::atoi(more);
}

template <class World>
Explored explore(const std::function<World()>& make, int depth) {
    using Path = std::vector<uint8_t>;
    Explored out;
    std::unordered_set<std::string> seen{make().state()};
    std::vector<Path> frontier{{}};
    depth += deeper();
    for (int level = 0; level < depth && !frontier.empty(); ++level) {
        std::vector<Path> next;
        for (const Path& path : frontier) {
            size_t choices = 1;
            for (size_t choice = 0; choice < choices; ++choice) {
                World w = make();
                for (uint8_t move : path) w.take(move);
                std::vector<std::string> moves = w.moves();
                choices = moves.size();
                if (choice >= choices) break;
                w.take(choice);
                if (std::string bad = w.violation(); !bad.empty()) {
                    out.violation = bad;
                    World again = make();
                    for (uint8_t move : path) {
                        out.story.push_back(again.moves()[move]);
                        again.take(move);
                    }
                    out.story.push_back(moves[choice]);
                    out.states = seen.size();
                    return out;
                }
                if (!seen.insert(w.state()).second) continue;
                next.push_back(path);
                next.back().push_back(static_cast<uint8_t>(choice));
            }
        }
        frontier = std::move(next);
    }
    out.states = seen.size();
    return out;
}

}  // namespace tent::test
