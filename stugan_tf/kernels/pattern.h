// Where the non-zeros of a kernel are, in the order in which the inner loops visit them.

#ifndef STUGAN_TF_KERNELS_PATTERN_H_
#define STUGAN_TF_KERNELS_PATTERN_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "layout.h"

namespace stugan {

struct Pattern {
  Layout layout;
  std::vector<int32_t> positions;  // Of each non-zero in the flat kernel.
  std::vector<int32_t> offsets;    // Of its shifted tile in the packed block, in floats.
  std::vector<int32_t> begin;      // [block][target]: its first non-zero; one more at the end.

  int64_t size() const { return static_cast<int64_t>(positions.size()); }

  // The pattern of what is not zero in `kernel`, NaN included.
  Pattern(const Layout& layout, const float* kernel) : layout(layout) {
    const int64_t num_targets = layout.targets();
    begin.assign(layout.num_blocks() * num_targets + 1, 0);
    // Two passes in the order of memory: count, then place.
    visit(kernel, [&](int64_t list, int32_t, int32_t) { ++begin[list + 1]; });
    for (size_t i = 1; i < begin.size(); ++i) begin[i] += begin[i - 1];
    positions.resize(begin.back());
    offsets.resize(begin.back());
    std::vector<int32_t> next(begin.begin(), begin.end() - 1);
    visit(kernel, [&](int64_t list, int32_t position, int32_t offset) {
      const int32_t j = next[list]++;
      positions[j] = position;
      offsets[j] = offset;
    });
  }

  // Fills `values` from `kernel`. Returns whether the pattern is exactly that of its non-zeros: one
  // more, and a zero would meet NaN, or get a gradient.
  //   parallel(n, worker): calls worker(0), ..., worker(n - 1), several at once if it can.
  template <typename Parallel>
  bool gather(const float* kernel, float* values, const Parallel& parallel) const {
    constexpr int64_t kPart = 1 << 17;
    const int64_t num_parts = std::max<int64_t>(1, layout.size() / kPart);
    std::atomic<int64_t> found{0}, total{0};
    parallel(num_parts, [&](int64_t part) {
      const int64_t first = part * size() / num_parts, last = (part + 1) * size() / num_parts;
      int64_t non_zeros = 0;
      for (int64_t j = first; j < last; ++j) {
        values[j] = kernel[positions[j]];
        non_zeros += values[j] != 0;
      }
      found += non_zeros;
      const int64_t start = part * layout.size() / num_parts;
      total += count(kernel + start, (part + 1) * layout.size() / num_parts - start);
    });
    return found == size() && found == total;
  }

  static int64_t count(const float* values, int64_t size) {
    int64_t total = 0;
    constexpr int64_t kChunk = 1 << 14;  // Short enough for 32-bit counters, which vectorize.
    for (int64_t start = 0; start < size; start += kChunk) {
      const int64_t length = std::min(kChunk, size - start);
      int32_t found = 0;
      for (int64_t i = 0; i < length; ++i) found += values[start + i] != 0;
      total += found;
    }
    return total;
  }

 private:
  template <typename Visitor>
  void visit(const float* kernel, Visitor visitor) const {
    const Layout& l = layout;
    int64_t position = 0;
    for (int64_t y = 0; y < l.height; ++y) {
      for (int64_t x = 0; x < l.width; ++x) {
        const int64_t row = l.transposed ? l.height - 1 - y : y;
        const int64_t column = l.transposed ? l.width - 1 - x : x;
        for (int64_t input = 0; input < l.inputs; ++input) {
          for (int64_t output = 0; output < l.outputs; ++output, ++position) {
            if (kernel[position] == 0) continue;
            const int64_t source = l.transposed ? output : input;
            const int64_t target = l.transposed ? input : output;
            visitor(l.list(source, target), static_cast<int32_t>(position),
                    l.offset(source, row, column));
          }
        }
      }
    }
  }
};

// The patterns used last by one operation. A pattern changes once in a topology update, its values
// in every step, so each call checks in passing whether a kept one still fits: a stale pattern is
// never used.
class PatternCache {
 public:
  // Returns the pattern of the non-zeros of `kernel`, which go into `values`.
  template <typename Parallel>
  std::shared_ptr<const Pattern> find(const Layout& layout, const float* kernel,
                                      std::vector<float>* values, const Parallel& parallel) {
    for (const auto& pattern : snapshot()) {
      if (!(pattern->layout == layout)) continue;
      values->resize(pattern->size());
      if (pattern->gather(kernel, values->data(), parallel)) return pattern;
    }
    auto pattern = std::make_shared<const Pattern>(layout, kernel);
    values->resize(pattern->size());
    for (int64_t j = 0; j < pattern->size(); ++j) (*values)[j] = kernel[pattern->positions[j]];
    const std::lock_guard<std::mutex> lock(mutex_);
    patterns_.insert(patterns_.begin(), pattern);
    if (patterns_.size() > kCapacity) patterns_.pop_back();
    return pattern;
  }

 private:
  static constexpr size_t kCapacity = 4;

  std::vector<std::shared_ptr<const Pattern>> snapshot() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return patterns_;
  }

  std::mutex mutex_;
  std::vector<std::shared_ptr<const Pattern>> patterns_;  // The newest first.
};

}  // namespace stugan

#endif  // STUGAN_TF_KERNELS_PATTERN_H_
