// What the layers with kernels have in common; see linear.cc.

#ifndef STUGAN_RUNTIME_LINEAR_H_
#define STUGAN_RUNTIME_LINEAR_H_

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "activations.h"
#include "steps.h"
#include "tiling.h"

namespace stugan {

constexpr int64_t kMaxPacked = 1 << 25;  // Floats that a thread packs at once.

// A weight in the precision that a layer computes in.
template <typename Number>
Number number(float value) {
  if constexpr (std::is_same_v<Number, float>) {
    return value;
  } else if constexpr (std::is_same_v<Number, Half>) {
    return {float_to_half(value)};
  } else {
    return {number<Half>(value), number<Half>(value)};
  }
}

template <typename Number>
std::vector<Number> numbers(const Weight* weight) {
  std::vector<Number> result;
  if (!weight) return result;
  for (const float value : weight->dense()) result.push_back(number<Number>(value));
  return result;
}

template <typename Number>
const Number* data(const std::vector<Number>& numbers) {
  return numbers.empty() ? nullptr : numbers.data();
}

template <typename T>
int64_t bytes(const std::vector<T>& values) {
  return static_cast<int64_t>(values.size() * sizeof(T));
}

// Calls visit(tap, input, output, value) for each non-zero of a kernel.
template <typename Visitor>
void visit_kernel(const Linear& layer, Visitor visitor) {
  const int64_t inner = layer.window.transposed ? layer.inputs : layer.outputs;
  const int64_t outer = layer.window.transposed ? layer.outputs : layer.inputs;
  int64_t row = 0, tap = 0, o = 0;
  layer.kernel->visit([&](int64_t position, float value) {
    if (position - row >= inner) {
      row = position / inner * inner;
      tap = row / inner / outer;
      o = row / inner % outer;
    }
    if (layer.window.transposed) {
      visitor(tap, position - row, o, value);
    } else {
      visitor(tap, o, position - row, value);
    }
  });
}

// The non-zeros of a kernel, by inputs and then taps.
struct NonZeros {
  struct Each {
    int32_t tap, input, output;
    float value;
  };

  int64_t num_taps, num_inputs;
  std::vector<Each> all;

  explicit NonZeros(const Linear& layer);
};

// Non-zeros in lists; `Value` is a number or two that are the same.
template <typename Value>
struct Lists {
  std::vector<int32_t> begin, offsets;
  std::vector<Value> values;

  // A list and the offset of one of its non-zeros, or parts of them.
  struct Where {
    int64_t list, offset;
  };

  // Those of a list keep their order, whatever the lists are, so that sums are rounded alike.
  //   lists_of_output: how many an output has, side by side.
  //   of_input, of_tap: what these add to the `Where` of a non-zero.
  template <typename OfInput, typename OfTap>
  void fill(const NonZeros& kernel, int64_t num_lists, int64_t lists_of_output,
            const OfInput& of_input, const OfTap& of_tap) {
    std::vector<Where> inputs(kernel.num_inputs), taps(kernel.num_taps);
    for (int64_t i = 0; i < kernel.num_inputs; ++i) inputs[i] = of_input(i);
    for (int64_t i = 0; i < kernel.num_taps; ++i) taps[i] = of_tap(i);
    const auto list = [&](const NonZeros::Each& each) {
      return inputs[each.input].list + taps[each.tap].list + lists_of_output * each.output;
    };
    begin.assign(num_lists + 1, 0);
    for (const auto& each : kernel.all) ++begin[list(each) + 1];
    for (int64_t i = 0; i < num_lists; ++i) begin[i + 1] += begin[i];
    offsets.resize(kernel.all.size());
    values.resize(kernel.all.size());
    std::vector<int32_t> next(begin.begin(), begin.end() - 1);
    for (const auto& each : kernel.all) {
      const int32_t i = next[list(each)]++;
      offsets[i] = static_cast<int32_t>(inputs[each.input].offset + taps[each.tap].offset);
      values[i] = number<Value>(each.value);
    }
  }

  int64_t num_bytes() const { return bytes(begin) + bytes(offsets) + bytes(values); }
};

// The pixels of a run, as the layer meets them.
inline Geometry geometry_of(const Window& w, int64_t num_images) {
  return {num_images,    w.height,      w.width,      w.input_height,   w.input_width,
          w.size.height, w.size.width,  w.padding.height, w.padding.width, w.upsampling, 1};
}

// `Number` is float or Half: that of inputs, addends and outputs.
template <typename Number>
class LinearStep : public Step {
 public:
  LinearStep(const Linear& layer, const MachineCode& code)
      : layer_(layer),
        code_(code),
        bias_(numbers<Number>(layer.bias)),
        scale_(numbers<Number>(layer.scale)),
        shift_(numbers<Number>(layer.shift)) {
    layer_.kernel = layer_.bias = layer_.scale = layer_.shift = nullptr;  // Of the file.
  }

  int64_t weight_bytes() const override { return bytes(bias_) + bytes(scale_) + bytes(shift_); }

  std::string name() const override {
    const Window& w = layer_.window;
    char text[160];
    std::snprintf(text, sizeof text, "%s %dx%d, %lld to %lld, %lldx%lld", kind(),
                  static_cast<int>(w.size.height), static_cast<int>(w.size.width),
                  static_cast<long long>(layer_.inputs), static_cast<long long>(layer_.outputs),
                  static_cast<long long>(w.height), static_cast<long long>(w.width));
    return text;
  }

 protected:
  virtual const char* kind() const = 0;

  // What is done to inputs.
  //   sources: `count` pixels of `images`, or null.
  //   pointers: room for twice as many, if scales are those of images.
  PrologueOf<Number> before(const Run& run, const Number* images, const Number* const* sources,
                            int64_t count, const Number** pointers) const {
    PrologueOf<Number> result{data(scale_), data(shift_), layer_.relu};
    if (!layer_.image_scale.is_there()) return result;
    const Number* const scales = run.numbers<Number>(layer_.image_scale);
    const Number* const shifts = run.numbers<Number>(layer_.image_shift);
    const int64_t size = layer_.window.memory_pixels() * layer_.inputs;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t image = sources[i] ? (sources[i] - images) / size : 0;
      pointers[i] = scales + image * layer_.inputs;
      pointers[count + i] = shifts + image * layer_.inputs;
    }
    result.scales = pointers;
    result.shifts = pointers + count;
    return result;
  }

  // Pointers that `before` needs.
  int64_t num_pointers(int64_t count) const {
    return layer_.image_scale.is_there() ? 2 * count : 0;
  }

  // Whether the activation is a ReLU, which unpacking does in passing.
  bool rectifies() const { return layer_.activation.is_plain_relu(); }

  void activate(const Run& run) const {
    if (layer_.activation.is_linear()) return;
    const int64_t pixels = layer_.window.pixels();
    float* const images = run.at(layer_.output);
    run.parallel_ranges(pixels, layer_.outputs, [&](int64_t image, int64_t first, int64_t last) {
      stugan::activate(*code_.loops, layer_.activation,
                       images + (image * pixels + first) * layer_.outputs, last - first,
                       layer_.outputs);
    });
  }

  // Where the row of an output begins in `addend`, given its number in the batch.
  const float* addend(const float* addends, int64_t row) const {
    const Window& w = layer_.window;
    const int64_t f = layer_.addend_upsampling;
    if (f == 1) return addends + row * layer_.outputs;
    const int64_t image = row / w.pixels(), y = row % w.pixels() / w.width, x = row % w.width;
    const int64_t width = w.width / f;
    return addends + ((image * (w.height / f) + y / f) * width + x / f) * layer_.outputs;
  }

  // Fills [taps][count] with where the pixels begin that outputs first, ..., first + count - 1 of
  // the batch need; with `nothing` where there is no pixel, or no output.
  void sources(int64_t first, int64_t count, int64_t num_rows, const float* images,
               const float* nothing, const float** result) const {
    const Window& w = layer_.window;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = first + i, image = row / w.pixels();
      const int64_t y = row % w.pixels() / w.width, x = row % w.width;
      const float* const pixels = images + image * w.memory_pixels() * layer_.inputs;
      const float** next = result + i;
      for (int64_t ky = 0; ky < w.size.height; ++ky) {
        const int64_t iy = row < num_rows ? w.row(y, ky) : -1;
        for (int64_t kx = 0; kx < w.size.width; ++kx, next += count) {
          const int64_t ix = iy < 0 ? -1 : w.column(x, kx);
          *next = ix < 0 ? nothing : pixels + (iy * w.memory_width() + ix) * layer_.inputs;
        }
      }
    }
  }

  // In how many parts threads share the outputs of a group.
  static int64_t num_parts(int64_t num_threads, int64_t num_groups, int64_t outputs) {
    return std::min(outputs, std::max<int64_t>(1, num_threads / std::max<int64_t>(1, num_groups)));
  }

  Linear layer_;
  MachineCode code_;
  std::vector<Number> bias_, scale_, shift_;
};

// A sparse convolution of upsampled images, computed before the upsampling (upsampled.cc).
bool is_better_before_upsampling(const Linear& layer, const MachineCode& code, int64_t max_images);
std::unique_ptr<Step> make_upsampled(const Linear& layer, const MachineCode& code,
                                     int64_t max_images, int max_threads);

}  // namespace stugan

#endif  // STUGAN_RUNTIME_LINEAR_H_
