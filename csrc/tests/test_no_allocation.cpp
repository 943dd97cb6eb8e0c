// The sampling loop allocates nothing: every operator new of the process is counted while it runs.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#include "tests/check.h"
#include "tests/denoiser_engine.h"

using namespace survcore;

namespace {

std::atomic<int64_t> allocations{0};

void* counted(std::size_t size, std::size_t alignment) {
  ++allocations;
  void* memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t size) { return counted(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

template <class Weight, class Real, class Width>
void test_loop() {
  const DenoiserShape shape{2, 16, 4, 2, 2, 5, 4};
  const DenoiserInputs inputs(shape);
  // The companion may still be in its half when the call returns: it owns what it reads.
  struct Owner {
    EngineInputs<Weight, Real> inputs;
    std::vector<int64_t> draws;
  };
  const auto owner = std::make_shared<Owner>(Owner{EngineInputs<Weight, Real>(inputs), first_draws(shape.draws)});
  const SamplingProblem<Real> problem = owner->inputs.problem();
  const auto kept = std::make_shared<ConditionKeys<Real>>(problem);
  keep_condition_keys<Weight>(Width(), problem, 0, problem.patients, *kept);
  std::vector<Real> output(shape.draws * shape.width);
  const auto sampling =
      std::make_shared<Sampling<Weight, Real, Width>>(problem, kept, owner->draws.data(), shape.draws, owner, true);
  Companion::offer(sampling);
  const int64_t before = allocations;
  sampling->run(output.data());
  CHECK(allocations == before);
  sampling->let_companion_go();
}

}  // namespace

int main() {
  test_loop<float, float, VectorWidth<16>>();
  test_loop<BFloat16Pair, float, VectorWidth<16>>();
  CHECK(allocations > 0);
  return failures();
}
