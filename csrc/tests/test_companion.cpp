// common/companion.h: work in phases, of which two sides compute one half each, must come out the same however the
// companion is scheduled: early, late, in the midst of a half when the call ends, or not at all.
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "common/companion.h"

#if SURVCORE_HAS_FORK
#include <sys/wait.h>
#endif

#include "tests/check.h"

using namespace survcore;

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// Long enough for any machine that is not stuck.
constexpr std::chrono::seconds forever{20};

template <class Condition>
bool holds_soon(const Condition& condition, Clock::duration patience = forever) {
  for (const auto limit = Clock::now() + patience; !condition();) {
    if (Clock::now() > limit) return false;
    std::this_thread::sleep_for(microseconds(50));
  }
  return true;
}

// Several words, of which none may be of another phase.
using Words = std::array<uint64_t, 24>;

Words half_of(const Words& state, int64_t phase, uint64_t half) {
  Words result;
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i] = (state[i] ^ (state[(i + 1) % result.size()] >> 7)) * 0x9e3779b97f4a7c15u + uint64_t(2 * phase) + half;
  }
  return result;
}

void add_halves(Words& state, const Words& first, const Words& second) {
  for (std::size_t i = 0; i < state.size(); ++i) state[i] = state[i] * 3 + first[i] + second[i] * 5;
}

constexpr int64_t phases_per_step = 3;

// The pattern of Sampling in common/denoiser.h, with delays in each half. What both sides use is not atomic: thread
// sanitizer sees what the protocol leaves unprotected.
class Phases : public CompanionTask {
 public:
  using Delay = std::function<void(int64_t phase)>;

  explicit Phases(int64_t phases, Delay caller_delay = {}, Delay companion_delay = {})
      : phases_(phases),
        caller_delay_(std::move(caller_delay)),
        companion_delay_(std::move(companion_delay)),
        computed_in_(phases) {}

  // Whether the result is right, and each half taken was computed after the companion had last been let in: until then
  // it may compute one more, and would write again what the caller already reads. A patient caller waits at each step
  // until the companion is ready.
  bool run(bool patient) {
    bool together = false, fresh = true;
    for (int64_t phase = 0; phase < phases_; ++phase) {
      if (!together && phase % phases_per_step == 0) {
        if (patient) holds_soon([&] { return pairing_.companion_is_ready(); });
        if (pairing_.companion_is_ready()) {
          entries.push_back(phase);
          handover_ = state_;
          entry_ = static_cast<int64_t>(entries.size());
          pairing_.let_in(phase);
          together = true;
        }
      }
      Words& first = parts_[(together ? caller : alone) + (together ? phase % 2 : 0)];
      const Words* second = &parts_[alone + 1];
      if (caller_delay_) caller_delay_(phase);
      first = half_of(state_, phase, 0);
      if (together && !pairing_.caller_meets(phase)) {
        together = false;
        drops.push_back(phase);
      }
      if (together) {
        second = &parts_[companion + phase % 2];
        fresh = fresh && computed_in_[phase].load(std::memory_order_relaxed) == entry_;
      } else {
        parts_[alone + 1] = half_of(state_, phase, 1);
      }
      add_halves(state_, first, *second);
    }
    pairing_.finish();
    return fresh && state_ == expected(phases_);
  }

  void help() override {
    for (;;) {
      int64_t phase = pairing_.companion_waits();
      if (phase < 0) return;
      Words state = handover_;
      const int64_t entry = entry_;
      for (;; ++phase) {
        if (phase == phases_) return;
        Words& second = parts_[companion + phase % 2];
        if (companion_delay_) companion_delay_(phase);
        second = half_of(state, phase, 1);
        computed_in_[phase].store(entry, std::memory_order_relaxed);
        if (!pairing_.companion_meets(phase)) break;
        add_halves(state, parts_[caller + phase % 2], second);
      }
    }
  }

  // In which phases the caller let the companion in, and in which it dropped it.
  std::vector<int64_t> entries, drops;

 private:
  static constexpr int64_t caller = 0, companion = 2, alone = 4;

  static Words expected(int64_t phases) {
    Words state = {};
    for (int64_t phase = 0; phase < phases; ++phase) {
      add_halves(state, half_of(state, phase, 0), half_of(state, phase, 1));
    }
    return state;
  }

  const int64_t phases_;
  const Delay caller_delay_, companion_delay_;
  Words state_ = {}, handover_ = {};
  int64_t entry_ = 0;  // handed over as well: how often the companion has been let in
  std::vector<std::atomic<int64_t>> computed_in_;
  std::array<Words, 6> parts_ = {};
  Pairing pairing_;
};

// Holds a companion up in its half until it is opened.
struct Gate {
  std::atomic<bool> reached{false}, open{false};
  void pass() {
    reached.store(true);
    while (!open.load()) std::this_thread::sleep_for(microseconds(100));
  }
};

// Work of one step, which the companion enters and then holds up until the gate is opened; the caller goes on alone.
std::shared_ptr<Phases> held_up_at(Gate& gate) {
  return std::make_shared<Phases>(
      phases_per_step, [&](int64_t) { holds_soon([&] { return gate.reached.load(); }); },
      [&](int64_t) { gate.pass(); });
}

// Nothing, a turn for the others, or up to a fifth of a millisecond; on average little.
Phases::Delay random_delay(uint32_t seed) {
  return [generator = std::mt19937(seed)](int64_t) mutable {
    const uint32_t kind = generator() % 32;
    if (kind == 0) std::this_thread::sleep_for(microseconds(generator() % 200));
    if (kind == 1) std::this_thread::yield();
    if (kind < 8) {
      for (uint32_t i = generator() % 2000; i > 0; --i) pause_briefly();
    }
  };
}

void test_no_companion() {
  Phases work(20);
  CHECK(work.run(false));
  CHECK(work.entries.empty());
  // One that comes when the call is over goes at once.
  std::thread late([&] { work.help(); });
  late.join();
}

void test_together() {
  for (const int64_t phases : {1, 2, 3, 30, 3000}) {
    Phases work(phases);
    std::thread helper([&] { work.help(); });
    CHECK(work.run(true));
    CHECK(!work.entries.empty());
    helper.join();
  }
}

void test_random_delays() {
  for (uint32_t round = 0; round < 300; ++round) {
    Phases work(60, random_delay(2 * round), random_delay(2 * round + 1));
    std::thread helper([&] { work.help(); });
    CHECK(work.run(round % 3 == 0));
    helper.join();
  }
}

// Late in its second half, the companion is dropped and joins again in the next step.
void test_late() {
  Phases work(12, {}, [](int64_t phase) {
    if (phase == 1) std::this_thread::sleep_for(microseconds(20000));
  });
  std::thread helper([&] { work.help(); });
  CHECK(work.run(true));
  CHECK(work.drops.size() >= 1 && work.drops[0] <= 1);
  CHECK(work.entries.size() >= 2 && work.entries[1] == phases_per_step);
  helper.join();
}

// Late in the last phase of a step, it has computed its half of the next one before it notices that it was dropped, and
// is let in to compute it again.
void test_late_at_end_of_step() {
  constexpr int64_t last = phases_per_step - 1, next = phases_per_step;
  std::atomic<int64_t> begun{-1};
  int visits = 0;
  Phases work(
      2 * phases_per_step,
      [&](int64_t phase) { holds_soon([&] { return begun.load() >= phase; }, std::chrono::milliseconds(100)); },
      [&](int64_t phase) {
        begun.store(phase);
        const bool again = phase == next && ++visits == 2;
        if (phase == last || again) std::this_thread::sleep_for(std::chrono::milliseconds(200));
      });
  std::thread helper([&] { work.help(); });
  CHECK(work.run(true));
  helper.join();
}

// The call returns and lets go of its work while the companion is still in its half of it.
void test_call_ends_first() {
  Gate gate;
  std::shared_ptr<Phases> work = held_up_at(gate);
  const std::weak_ptr<Phases> left = work;
  CHECK(holds_soon([&] { return Companion::offer(work); }));
  CHECK(work->run(true));
  CHECK(work->entries.size() == 1 && work->drops.size() == 1);
  work.reset();
  CHECK(!left.expired());
  gate.open.store(true);
  // It is gone at the latest when the companion has other work.
  const auto other = std::make_shared<Phases>(5);
  CHECK(holds_soon([&] { return Companion::offer(other); }));
  CHECK(left.expired());
  CHECK(other->run(true));
}

// A second call works alone, until the first one's companion is free again.
void test_two_calls() {
  Gate gate;
  const std::shared_ptr<Phases> first = held_up_at(gate);
  CHECK(holds_soon([&] { return Companion::offer(first); }));
  const auto second = std::make_shared<Phases>(5);
  CHECK(!Companion::offer(second));
  CHECK(second->run(false));
  CHECK(second->entries.empty());
  CHECK(first->run(true));
  CHECK(!Companion::offer(std::make_shared<Phases>(5)));
  gate.open.store(true);
  const auto third = std::make_shared<Phases>(5);
  CHECK(holds_soon([&] { return Companion::offer(third); }));
  CHECK(third->run(true));
  CHECK(!third->entries.empty());
}

// Calls from several threads, each of which has the companion now and then.
void test_many_calls() {
  std::vector<std::thread> callers;
  std::array<bool, 3> right = {};
  for (std::size_t thread = 0; thread < right.size(); ++thread) {
    callers.emplace_back([&right, thread] {
      bool all = true;
      for (uint32_t round = 0; round < 100; ++round) {
        const auto work = std::make_shared<Phases>(30, random_delay(round), random_delay(round + 1));
        Companion::offer(work);
        all = work->run(false) && all;
      }
      right[thread] = all;
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(right[0] && right[1] && right[2]);
}

// A forked child has no companion thread, whatever its parent's was doing: it starts its own.
void test_fork() {
#if SURVCORE_HAS_FORK && !defined(__SANITIZE_THREAD__)
  Gate gate;
  const std::shared_ptr<Phases> work = held_up_at(gate);
  CHECK(holds_soon([&] { return Companion::offer(work); }));
  CHECK(work->run(true));
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // ends a child that is stuck
    bool right = true;
    for (int call = 0; call < 3; ++call) {
      const auto own = std::make_shared<Phases>(30);
      right = holds_soon([&] { return Companion::offer(own); }) && own->run(true) && !own->entries.empty() && right;
    }
    _exit(right ? 0 : 1);
  }
  int status = -1;
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  gate.open.store(true);
  const auto other = std::make_shared<Phases>(5);
  CHECK(holds_soon([&] { return Companion::offer(other); }));
  CHECK(other->run(true));
#endif
}

}  // namespace

int main() {
  test_no_companion();
  test_together();
  test_random_delays();
  test_late();
  test_late_at_end_of_step();
  test_call_ends_first();
  test_two_calls();
  test_many_calls();
  test_fork();
  return failures();
}
