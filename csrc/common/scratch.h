// Memory for the time of one call, written before it is read. A thread keeps what it has used, up to 64 MB, for its
// next call: to fault in fresh pages takes longer than most of what is done with them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/huge_pages.h"

namespace survcore {

namespace detail {

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

struct MemoryBlock {
  std::unique_ptr<void, FreeMemory> memory;
  std::size_t bytes = 0;
};

class MemoryOfThread {
 public:
  // The smallest kept block that is large enough and not far too large, else a new one.
  MemoryBlock take(std::size_t bytes) {
    std::size_t best = kept_.size();
    for (std::size_t i = 0; i < kept_.size(); ++i) {
      const bool fits = kept_[i].bytes >= bytes && kept_[i].bytes / 4 <= bytes;
      if (fits && (best == kept_.size() || kept_[i].bytes < kept_[best].bytes)) best = i;
    }
    if (best < kept_.size()) {
      std::swap(kept_[best], kept_.back());
      MemoryBlock block = std::move(kept_.back());
      kept_.pop_back();
      kept_bytes_ -= block.bytes;
      return block;
    }
    constexpr std::size_t line = 64;
    const std::size_t rounded = (bytes + line) / line * line;
    MemoryBlock block{std::unique_ptr<void, FreeMemory>(std::aligned_alloc(line, rounded)), rounded};
    if (!block.memory) throw std::bad_alloc();
    ask_for_huge_pages(block.memory.get(), rounded);
    return block;
  }

  // Makes room by giving up what was kept before, which is of sizes no longer used.
  void give_back(MemoryBlock block) {
    if (block.bytes < least_bytes || block.bytes > most_bytes) return;
    while (!kept_.empty() && kept_bytes_ + block.bytes > most_bytes) {
      kept_bytes_ -= kept_.front().bytes;
      kept_.erase(kept_.begin());
    }
    kept_bytes_ += block.bytes;
    kept_.push_back(std::move(block));
  }

  static MemoryOfThread& own() {
    thread_local MemoryOfThread memory;
    return memory;
  }

 private:
  static constexpr std::size_t least_bytes = std::size_t(1) << 20;  // below it, malloc keeps what it needs
  static constexpr std::size_t most_bytes = std::size_t(64) << 20;
  std::vector<MemoryBlock> kept_;
  std::size_t kept_bytes_ = 0;
};

}  // namespace detail

template <class T>
class Scratch {
  static_assert(std::is_trivially_copyable_v<T>, "elements are neither made nor destroyed");

 public:
  explicit Scratch(int64_t count)
      : count_(count), block_(detail::MemoryOfThread::own().take(static_cast<std::size_t>(count) * sizeof(T))) {}
  Scratch(Scratch&&) = default;
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch() {
    if (block_.memory) detail::MemoryOfThread::own().give_back(std::move(block_));
  }

  T* data() { return static_cast<T*>(block_.memory.get()); }
  const T* data() const { return static_cast<const T*>(block_.memory.get()); }
  bool empty() const { return count_ == 0; }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }

 private:
  int64_t count_;
  detail::MemoryBlock block_;
};

}  // namespace survcore
