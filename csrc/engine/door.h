// The door: connections before they are authenticated. Their number, memory and time are bounded; whoever
// comes through is handed to its session. Loop token held.
#pragma once

#include <errno.h>
#include <fcntl.h>

#include <memory>
#include <vector>

#include "base/log.h"
#include "engine/engine.h"

namespace tent::engine {

class Engine::Door final : public transport::StreamHandler {
  public:
    explicit Door(Engine& engine) : engine_(engine) {}

    struct Listener final : PollHandler {
        Listener(Door& d, UniqueFd f) : door(d), fd(std::move(f)) {}
        void on_ready(uint32_t) override { door.accept(fd.get()); }
        Door& door;
        UniqueFd fd;
        Poller::Token token = 0;
    };

    void add(UniqueFd fd) {
        auto l = std::make_unique<Listener>(*this, std::move(fd));
        l->token = engine_.poller_.add(l->fd.get(), EPOLLIN, l.get());
        listeners_.push_back(std::move(l));
    }

    void accept(int fd) {
        for (int i = 0; i < 16; ++i) {
            UniqueFd got = transport::accept_one(fd);
            if (!got) {
                if (errno == EMFILE || errno == ENFILE) out_of_files(fd);
                return;
            }
            if (strangers_.size() >= kMaxStrangers) {
                ++engine_.counters_.handshakes_refused;
                continue;  // closed: whoever comes in earnest dials again
            }
            ++engine_.counters_.connections_accepted;
            std::string name = transport::describe(got.get());
            auto s = std::make_unique<transport::FrameStream>(
                engine_.poller_, std::move(got), false, proto::Handshake::Role::owner,
                engine_.handshake_config(), this, transport::StreamLimits{});
            s->name = std::move(name);
            strangers_.push_back(std::move(s));
        }
    }

    void tick(Nanos now) {
        gone_.clear();
        for (size_t i = strangers_.size(); i-- > 0;) {
            if (now - strangers_[i]->born() > engine_.settings_.connect_timeout) {
                strangers_[i]->close({Code::deadline, "no handshake in time"});
            }
        }
    }

    void close() {
        for (auto& l : listeners_) engine_.poller_.remove(l->token, l->fd.get());
        listeners_.clear();
        while (!strangers_.empty()) strangers_.back()->close({Code::closed, "the engine is closing"});
        gone_.clear();
    }

    // Called out of the stream's own callback: it is deleted later.
    void refuse(std::unique_ptr<transport::FrameStream> stream, const Status& why) {
        transport::FrameStream& s = *stream;
        gone_.push_back(std::move(stream));
        s.close(why);
    }

    void on_open(transport::FrameStream& stream) override {
        for (auto it = strangers_.begin(); it != strangers_.end(); ++it) {
            if (it->get() != &stream) continue;
            std::unique_ptr<transport::FrameStream> s = std::move(*it);
            strangers_.erase(it);
            engine_.admit_stream(std::move(s));
            return;
        }
    }
    void on_frame(transport::FrameStream&, const proto::Header&, ByteView) override {}
    void on_payload(transport::FrameStream&, const proto::Header&, ByteView,
                    std::vector<transport::LocalPiece>&) override {}
    bool may_land(transport::FrameStream&) override { return false; }
    void on_payload_end(transport::FrameStream&, bool) override {}
    void on_closed(transport::FrameStream& stream, const Status& why) override {
        ++engine_.counters_.handshakes_refused;
        tent::log(LogLevel::info, "connection " + stream.name + " refused: " + why.text());
        for (auto it = strangers_.begin(); it != strangers_.end(); ++it) {
            if (it->get() != &stream) continue;
            gone_.push_back(std::move(*it));
            strangers_.erase(it);
            return;
        }
    }

  private:
    // The kernel gives no descriptor: somebody idle goes, or the caller is turned away, lest it knock for
    // ever.
    void out_of_files(int fd) {
        if (engine_.close_idlest(0)) return;
        reserve_.reset();
        if (transport::accept_one(fd)) ++engine_.counters_.handshakes_refused;
        reserve_ = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        Nanos now = monotonic_now();
        if (warned_at_ != 0 && now - warned_at_ < kSecond) return;
        warned_at_ = now;
        tent::log(
            LogLevel::warning,
            "no descriptor is left for a peer's connection: raise `ulimit -n`, or lower tcp.max_connections");
    }

    static constexpr size_t kMaxStrangers = 128;  // x 64 KiB of stage
    Nanos warned_at_ = 0;
    UniqueFd reserve_{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
    Engine& engine_;
    std::vector<std::unique_ptr<Listener>> listeners_;
    std::vector<std::unique_ptr<transport::FrameStream>> strangers_, gone_;
};

}  // namespace tent::engine
