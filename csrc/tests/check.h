// CHECK counts and prints what does not hold; main returns failures().
#pragma once

#include <cstdio>

inline int& failure_count() {
  static int count = 0;
  return count;
}

inline int failures() { return failure_count() == 0 ? 0 : 1; }

#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      ++failure_count();                                                                  \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                                     \
  } while (false)
