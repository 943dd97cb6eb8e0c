// A second thread that may help a call and that the call never depends on.
//
// Threads that meet in a loop stall for whole scheduler quanta when another process holds one of the cores. The
// companion avoids that: it joins when it gets to run, the caller waits for it a moment at most and then does the work
// itself, and it joins again later. A call that finds the companion busy, or that is granted one thread, works alone.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#if defined(__unix__) || defined(__APPLE__)
#include <signal.h>
#include <unistd.h>
#define SURVCORE_HAS_FORK 1
#else
#define SURVCORE_HAS_FORK 0
#endif

namespace survcore {

inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// How this thread rounds and whether it flushes denormal numbers; a companion takes it over from its caller.
class FloatingPointMode {
 public:
#if defined(__x86_64__)
  FloatingPointMode() : mode_(_mm_getcsr()) {}
  void apply() const { _mm_setcsr(mode_); }

 private:
  unsigned int mode_;
#else
  void apply() const {}
#endif
};

// What a companion does for one call. It is kept alive by both sides, since the call may return first.
class CompanionTask {
 public:
  virtual ~CompanionTask() = default;
  virtual void help() = 0;
};

// The one helping thread of this process; it sleeps between calls.
class Companion {
 public:
  // Hands a task over, unless another call has the companion or no thread can be had. The task is let go with the next
  // one: its last owner may need locks of the interpreter, which are the callers'.
  static bool offer(std::shared_ptr<CompanionTask> task) {
    // Never destroyed: the thread may be in it when the process ends. A forked child starts its own.
    static std::mutex mutex;
    static Companion* companion = nullptr;
    static int64_t owner = 0;
    std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    if (companion == nullptr || owner != process()) {
      std::unique_ptr<Companion> fresh(new Companion());
      if (!fresh->start()) return false;
      companion = fresh.release();
      owner = process();
    }
    if (companion->busy_.exchange(true)) return false;
    companion->task_ = std::move(task);
    companion->tasks_.fetch_add(1, std::memory_order_release);
    companion->tasks_.notify_one();
    return true;
  }

 private:
  static int64_t process() {
#if SURVCORE_HAS_FORK
    return getpid();
#else
    return 0;
#endif
  }

  bool start() {
#if SURVCORE_HAS_FORK
    // Signals are for the threads that the process made itself, except those of a fault, which a handler wants to see.
    struct Masked {
      Masked() {
        sigset_t signals;
        sigfillset(&signals);
        for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigdelset(&signals, fault);
        pthread_sigmask(SIG_SETMASK, &signals, &before);
      }
      ~Masked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
      sigset_t before;
    } masked;
#endif
    try {
      std::thread([this] { work(); }).detach();
    } catch (...) {  // no thread, no memory: the caller works alone
      return false;
    }
    return true;
  }

  void work() {
    for (uint32_t done = 0;; ++done) {
      while (tasks_.load(std::memory_order_acquire) == done) tasks_.wait(done, std::memory_order_acquire);
      task_->help();
      busy_.store(false);
    }
  }

  std::atomic<bool> busy_{false};
  std::atomic<uint32_t> tasks_{0};
  std::shared_ptr<CompanionTask> task_;
};

// How caller and companion keep step. Work is a sequence of phases; in each, both sides compute one half, and go on
// when both halves are there. The caller lets the companion in at a phase of its choice, once it has said that it is
// ready, and drops it when its half is late. A half is written to the place of its phase's parity, so that neither side
// overwrites what the other may still read; a caller without companion writes elsewhere.
class Pairing {
 public:
  // ---- the caller's side

  bool companion_is_ready() const { return ready_.load(std::memory_order_acquire); }

  // From `phase` on both work; what the companion needs for it has been written.
  void let_in(int64_t phase) {
    ready_.store(false, std::memory_order_relaxed);
    first_phase_ = phase;
    caller_phase_.store(phase, std::memory_order_relaxed);
    companion_phase_.store(phase, std::memory_order_relaxed);  // it may have gone on by a phase before it noticed
    turns_.fetch_add(1, std::memory_order_release);
    turns_.notify_one();
    phase_start_ = Clock::now();
  }

  // The caller's half of `phase` is written: waits for the other. False if it is late: then the companion is dropped.
  bool caller_meets(int64_t phase) {
    caller_phase_.store(phase + 1, std::memory_order_release);
    const auto now = Clock::now();
    // As long again as the own half took: then doing the other half oneself costs no more than waiting did.
    const auto limit = now + (now - phase_start_) + std::chrono::microseconds(20);
    while (companion_phase_.load(std::memory_order_acquire) <= phase) {
      for (int i = 0; i < 16 && companion_phase_.load(std::memory_order_relaxed) <= phase; ++i) pause_briefly();
      if (Clock::now() > limit && companion_phase_.load(std::memory_order_acquire) <= phase) {
        drop();
        return false;
      }
    }
    phase_start_ = Clock::now();
    return true;
  }

  // The call is over: the companion goes, when it notices.
  void finish() {
    over_.store(true, std::memory_order_relaxed);
    turns_.fetch_add(companion_is_in() ? 1 : 2, std::memory_order_release);
    turns_.notify_one();
  }

  // ---- the companion's side

  // Waits to be let in. The phase with which to start, or -1 when the call is over.
  int64_t companion_waits() {
    for (;;) {
      turn_ = turns_.load(std::memory_order_acquire);
      if (over_.load(std::memory_order_relaxed)) return -1;
      if (turn_ % 2 == 1) return first_phase_;
      ready_.store(true, std::memory_order_release);
      for (int i = 0; i < 4096 && turns_.load(std::memory_order_relaxed) == turn_; ++i) pause_briefly();
      turns_.wait(turn_, std::memory_order_acquire);
    }
  }

  // The companion's half of `phase` is written: waits for the other. False when it has been dropped.
  bool companion_meets(int64_t phase) {
    companion_phase_.store(phase + 1, std::memory_order_release);
    for (int64_t i = 0; caller_phase_.load(std::memory_order_acquire) <= phase; ++i) {
      if (turns_.load(std::memory_order_acquire) != turn_) return false;
      if (i < 4096) {
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
    return true;
  }

 private:
  using Clock = std::chrono::steady_clock;

  // An odd turn: the companion is in. Every change wakes it.
  bool companion_is_in() const { return turns_.load(std::memory_order_relaxed) % 2 == 1; }
  void drop() { turns_.fetch_add(1, std::memory_order_release); }

  std::atomic<uint32_t> turns_{0};
  std::atomic<bool> ready_{false};
  std::atomic<bool> over_{false};
  int64_t first_phase_ = 0;        // written while the companion is out and ready
  Clock::time_point phase_start_;  // the caller's
  uint32_t turn_ = 0;              // the companion's
  alignas(64) std::atomic<int64_t> caller_phase_{0};
  alignas(64) std::atomic<int64_t> companion_phase_{0};
};

}  // namespace survcore
