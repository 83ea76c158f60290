// Layers with kernels. There are five ways to compute one:
//
// - Packed: a sparse convolution of stride 1, as in the TensorFlow operation: the batch is cut into
//   tiles, and each non-zero is multiplied with whole vectors of them. The only one
//   that computes in half precision, too.
// - Upsampled (upsampled.cc): the same of upsampled images, before the upsampling.
// - Gathered: any other sparse layer. The pixels that each output needs are packed together.
// - Dense: a product of matrices, whose rows are the pixels that each output needs.
// - ByTaps: the same where it is cheaper to multiply each pixel with all taps of the kernel first,
//   and to add up the products where they belong: few outputs, or upsampled inputs.

#include "linear.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "activations.h"
#include "layout.h"
#include "steps.h"
#include "tiling.h"

namespace stugan {
namespace {

constexpr double kDensest = 0.45;           // A sparse kernel; a denser one is multiplied as dense.
constexpr int64_t kMaxGathered = 1 << 26;
constexpr int64_t kMaxMatrix = 1 << 29;     // Floats of a dense kernel.
constexpr int64_t kMaxTapProducts = 1 << 22;  // Floats of an image.

template <typename Number>
class Packed : public LinearStep<Number> {
  static constexpr bool kIsHalf = std::is_same_v<Number, Half>;
  using Value = std::conditional_t<kIsHalf, TwoHalves, float>;  // A weight.
  using Where = typename Lists<Value>::Where;
  using LinearStep<Number>::layer_;
  using LinearStep<Number>::code_;
  using LinearStep<Number>::bias_;

 public:
  Packed(const Linear& layer, const MachineCode& code, int64_t max_images, int max_threads)
      : LinearStep<Number>(layer, code), num_non_zeros_(layer.kernel->count) {
    const NonZeros kernel(layer);
    for (int64_t n = 1; n <= max_images; ++n) {
      for (const int threads : {1, max_threads}) {
        const Tiling tiling = this->tiling(n, threads);
        if (lists_[tiling.index].begin.empty()) fill(kernel, tiling);
      }
    }
  }

  static bool can(const Linear& layer, const MachineCode& code) {
    const Window& w = layer.window;
    const int64_t largest = (w.size.height + 3) * (w.size.width + 3) * loops(code).lanes;
    return !w.transposed && w.strides.is(1) && w.size.height <= 8 && w.size.width <= 8 &&
           w.pixels() >= 4 && layer.inputs <= kMaxPacked / largest &&
           layer.outputs <= kMaxPacked / largest;
  }

  Needs needs(int64_t num_images) const override {
    Needs most;
    for (int index = 0; index < kNumTiles; ++index) {
      const Tiling t = tiling_of(num_images, index);
      const int64_t packed =
          (t.input_pixels() * layer_.inputs + t.pixels() * layer_.outputs) * t.lanes;
      most.floats = std::max(most.floats, kIsHalf ? (packed + 1) / 2 : packed);
      most.pointers = std::max(most.pointers, (t.input_pixels() + 2 * t.pixels()) * t.lanes +
                                                  this->num_pointers(t.input_pixels() * t.lanes));
    }
    return most;
  }

  int64_t weight_bytes() const override {
    int64_t total = LinearStep<Number>::weight_bytes();
    for (const Lists<Value>& lists : lists_) total += lists.num_bytes();
    return total;
  }

  int64_t num_products() const override { return num_non_zeros_ * layer_.window.pixels(); }

  void run(const Run& run) const override {
    const Tiling tiling = this->tiling(run.num_images(), run.num_threads());
    const Lists<Value>& lists = lists_[tiling.index];
    const auto& code = loops(code_);
    const int64_t inputs = layer_.inputs, outputs = layer_.outputs;
    const int64_t num_blocks = (inputs + tiling.block() - 1) / tiling.block();
    const int64_t parts = this->num_parts(run.num_threads(), tiling.num_groups(), outputs);
    const int64_t part_size = (outputs + parts - 1) / parts;
    const auto* const images = run.numbers<const Number>(layer_.input);
    const auto* const addends = run.numbers<const Number>(layer_.addend);
    auto* const results = run.numbers<Number>(layer_.output);
    run.parallel(tiling.num_groups() * parts, [&](int64_t unit, Scratch& scratch) {
      const int64_t group = unit / parts, first = unit % parts * part_size;
      const int64_t count = std::min(part_size, outputs - first);
      if (count <= 0) return;
      const int64_t lanes = tiling.lanes;
      auto* const x = reinterpret_cast<Number*>(scratch.floats.data());
      Number* const y = x + tiling.input_pixels() * lanes * inputs;
      auto** const from = reinterpret_cast<const Number**>(scratch.pointers.data());
      const Number** const add = from + tiling.input_pixels() * lanes;
      Number** const to = const_cast<Number**>(add + tiling.pixels() * lanes);
      const Number** const more = add + 2 * tiling.pixels() * lanes;
      tiling.sources(group, images, inputs, from);
      code.pack(from, tiling.input_pixels(), inputs,
                this->before(run, images, from, tiling.input_pixels() * lanes, more), x);
      for (int64_t block = 0; block < num_blocks; ++block) {
        code.convolve[tiling.index](x + block * tiling.block() * tiling.input_pixels() * lanes,
                                    tiling.input_width() * lanes, lists.offsets.data(),
                                    lists.values.data(),
                                    lists.begin.data() + block * outputs + first, count,
                                    block == 0, y);
      }
      tiling.targets(group, 1, results + first, outputs, to);
      if (addends) {
        tiling.targets(group, layer_.addend_upsampling, addends + first, outputs, add);
      }
      code.unpack(y, tiling.pixels(), count, bias_.empty() ? nullptr : bias_.data() + first,
                  addends ? add : nullptr, this->rectifies(), to);
    });
    if constexpr (!kIsHalf) {  // There is nothing else in half precision.
      if (!this->rectifies()) this->activate(run);
    }
  }

 protected:
  const char* kind() const override { return kIsHalf ? "packed, float16," : "packed"; }

 private:
  Tiling tiling_of(int64_t num_images, int index) const {
    const Geometry full = geometry_of(layer_.window, num_images);
    const Geometry geometry = layer_.addend_upsampling > 1 ? full : full.flattened();
    const auto& code = loops(code_);
    return {geometry, code.tiles[index], index, code.lanes, sizeof(Number)};
  }

  Tiling tiling(int64_t num_images, int num_threads) const {
    const auto cost = [&](const Tiling& tiling) {
      return tiling.cost(layer_.inputs, layer_.outputs, num_non_zeros_, num_threads);
    };
    Tiling best = tiling_of(num_images, 0);
    for (int index = 1; index < kNumTiles; ++index) {
      const Tiling other = tiling_of(num_images, index);
      if (cost(other) < cost(best)) best = other;
    }
    return best;
  }

  void fill(const NonZeros& kernel, const Tiling& tiling) {
    const Window& w = layer_.window;
    const Layout layout{w.size.height,        w.size.width,          layer_.inputs,
                        layer_.outputs,       false,                 tiling.block(),
                        tiling.input_width(), tiling.input_pixels(), tiling.lanes};
    lists_[tiling.index].fill(
        kernel, layout.num_blocks() * layout.outputs, 1,
        [&](int64_t input) -> Where {
          return {layout.list(input, 0), layout.offset(input, 0, 0)};
        },
        [&](int64_t tap) -> Where {
          return {0, layout.offset(0, tap / w.size.width, tap % w.size.width)};
        });
  }

  // The inner loops, in the precision of the layer.
  static const auto& loops(const MachineCode& code) {
    if constexpr (kIsHalf) {
      return *code.halves;
    } else {
      return *code.tiles;
    }
  }

  Lists<Value> lists_[kNumTiles];  // Those of the tiles that are used.
  int64_t num_non_zeros_;
};

class Gathered : public LinearStep<float> {
 public:
  Gathered(const Linear& layer, const MachineCode& code)
      : LinearStep(layer, code), num_non_zeros_(layer.kernel->count) {
    const int64_t taps = layer.window.taps(), lanes = code.tiles->lanes;
    using Where = Lists<float>::Where;
    lists_.fill(
        NonZeros(layer), layer.outputs, 1,
        [&](int64_t input) -> Where { return {0, input * taps * lanes}; },
        [&](int64_t tap) -> Where { return {0, tap * lanes}; });
  }

  static bool can(const Linear& layer, const MachineCode& code) {
    return layer.inputs <= kMaxGathered / (layer.window.taps() * code.tiles->lanes);
  }

  Needs needs(int64_t) const override {
    const int64_t lanes = code_.tiles->lanes, taps = layer_.window.taps();
    return {(layer_.inputs * taps + layer_.outputs) * lanes,
            (taps + 2) * lanes + num_pointers(taps * lanes)};
  }

  int64_t weight_bytes() const override { return LinearStep::weight_bytes() + lists_.num_bytes(); }
  int64_t num_products() const override { return num_non_zeros_ * layer_.window.pixels(); }

  void run(const Run& run) const override {
    const int64_t lanes = code_.tiles->lanes, taps = layer_.window.taps();
    const int64_t outputs = layer_.outputs, num_rows = run.num_images() * layer_.window.pixels();
    const int64_t num_groups = (num_rows + lanes - 1) / lanes;
    const int64_t parts = num_parts(run.num_threads(), num_groups, outputs);
    const int64_t part_size = (outputs + parts - 1) / parts;
    const float* const images = run.at(layer_.input);
    const float* const addends = run.at(layer_.addend);
    float* const results = run.at(layer_.output);
    run.parallel(num_groups * parts, [&](int64_t unit, Scratch& scratch) {
      const int64_t first_row = unit / parts * lanes, first = unit % parts * part_size;
      const int64_t count = std::min(part_size, outputs - first);
      if (count <= 0) return;
      float* const x = scratch.floats.data();
      float* const y = x + layer_.inputs * taps * lanes;
      const float** const from = scratch.pointers.data();
      const float** const add = from + taps * lanes;
      float** const to = const_cast<float**>(add + lanes);
      sources(first_row, lanes, num_rows, images, nullptr, from);
      code_.tiles->pack(from, taps, layer_.inputs,
                        before(run, images, from, taps * lanes, add + 2 * lanes), x);
      code_.loops->gather(x, lists_.offsets.data(), lists_.values.data(),
                          lists_.begin.data() + first, count, y);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t row = first_row + lane;
        to[lane] = row < num_rows ? results + row * outputs + first : nullptr;
        add[lane] = addends && row < num_rows ? addend(addends, row) + first : nullptr;
      }
      code_.tiles->unpack(y, 1, count, bias_.empty() ? nullptr : bias_.data() + first,
                          addends ? add : nullptr, rectifies(), to);
    });
    if (!rectifies()) activate(run);
  }

 protected:
  const char* kind() const override { return "gathered"; }

 private:
  Lists<float> lists_;
  int64_t num_non_zeros_;
};

class Dense : public LinearStep<float> {
 public:
  using LinearStep::LinearStep;

  // Reads the matrix: as the layer computes, or with the outputs of all taps side by side.
  Status read(const Linear& layer, bool by_taps) {
    const int64_t panel = code_.loops->panel, taps = layer.window.taps();
    num_inputs_ = layer.inputs * (by_taps ? 1 : taps);
    const int64_t num_panels = (layer_.outputs + panel - 1) / panel;
    if (num_panels * num_inputs_ * panel > kMaxMatrix) {
      return unsupported("A dense layer is too large for this library.");
    }
    STUGAN_RETURN_IF_ERROR(matrix_.reserve(num_panels * num_inputs_ * panel));
    matrix_.clear();
    std::vector<int64_t> columns(layer_.outputs);  // Where each begins.
    for (int64_t i = 0; i < layer_.outputs; ++i) {
      columns[i] = i / panel * panel * num_inputs_ + i % panel;
    }
    visit_kernel(layer, [&](int64_t tap, int64_t input, int64_t output, float value) {
      const int64_t row = by_taps ? input : tap * layer.inputs + input;
      const int64_t column = by_taps ? tap * layer.outputs + output : output;
      matrix_.data()[columns[column] + row * panel] = value;
    });
    nothing_.assign(layer.inputs, 0.0f);
    return {};
  }

  Needs needs(int64_t) const override { return {0, layer_.window.taps() * code_.loops->rows}; }

  int64_t weight_bytes() const override {
    return LinearStep::weight_bytes() + matrix_.bytes() + bytes(nothing_);
  }

  int64_t num_products() const override {
    return num_inputs_ * layer_.outputs * layer_.window.pixels();
  }

  void run(const Run& run) const override {
    const Loops& code = *code_.loops;
    const int64_t outputs = layer_.outputs, num_rows = run.num_images() * layer_.window.pixels();
    const int64_t num_panels = (outputs + code.panel - 1) / code.panel;
    const int64_t block = code.rows * 16;  // Rows whose inputs stay in the cache, panel by panel.
    const int64_t num_blocks = (num_rows + block - 1) / block;
    const float* const images = run.at(layer_.input);
    const float* const addends = run.at(layer_.addend);
    float* const results = run.at(layer_.output);
    run.parallel(num_blocks * num_panels, [&](int64_t unit, Scratch& scratch) {
      const int64_t panel = unit % num_panels, column = panel * code.panel;
      const int columns = static_cast<int>(std::min<int64_t>(code.panel, outputs - column));
      const int64_t last = std::min(num_rows, (unit / num_panels + 1) * block);
      for (int64_t row = unit / num_panels * block; row < last; row += code.rows) {
        const int count = static_cast<int>(std::min<int64_t>(code.rows, last - row));
        const float* add[kMaxRows];
        float* to[kMaxRows];
        sources(row, count, num_rows, images, nothing_.data(), scratch.pointers.data());
        for (int i = 0; i < count; ++i) {
          to[i] = results + (row + i) * outputs + column;
          if (addends) add[i] = addend(addends, row + i) + column;
        }
        code.multiply(scratch.pointers.data(), count, layer_.window.taps(), layer_.inputs,
                      matrix_.data() + panel * num_inputs_ * code.panel,
                      bias_.empty() ? nullptr : bias_.data() + column, addends ? add : nullptr,
                      columns, to);
      }
    });
    activate(run);
  }

 protected:
  const char* kind() const override { return "dense"; }

 private:
  Array<float> matrix_;  // [panel][num_inputs][columns of a panel]
  int64_t num_inputs_ = 0;
  std::vector<float> nothing_;
};

class ByTaps : public LinearStep<float> {
 public:
  ByTaps(const Linear& layer, const MachineCode& code, const Place& temporary)
      : LinearStep(layer, code), products_(product_layer(layer, temporary), code) {}

  static bool is_better(const Linear& layer, int64_t panel) {
    const Window& w = layer.window;
    const auto whole = [&](int64_t columns) { return (columns + panel - 1) / panel * panel; };
    const int64_t direct = w.pixels() * w.taps() * layer.inputs * whole(layer.outputs);
    const int64_t products = w.memory_pixels() * layer.inputs * whole(w.taps() * layer.outputs);
    const int64_t sums = 8 * w.pixels() * w.taps() * layer.outputs;
    return w.taps() > 1 && w.memory_pixels() * w.taps() * layer.outputs <= kMaxTapProducts &&
           products + sums < direct;
  }

  Status read(const Linear& layer) { return products_.read(layer, true); }

  Needs needs(int64_t num_images) const override { return products_.needs(num_images); }

  int64_t weight_bytes() const override {
    return LinearStep::weight_bytes() + products_.weight_bytes();
  }

  int64_t num_products() const override { return products_.num_products(); }

  void run(const Run& run) const override {
    products_.run(run);
    const Window& w = layer_.window;
    const int64_t outputs = layer_.outputs, stride = w.taps() * outputs;
    const float* const all = run.at(products_.output());
    const float* const addends = run.at(layer_.addend);
    float* const results = run.at(layer_.output);
    run.parallel_ranges(w.height, w.width * stride, [&](int64_t image, int64_t y, int64_t last) {
      const float* const products = all + image * w.memory_pixels() * stride;
      for (; y < last; ++y) {
        const int64_t first = image * w.pixels() + y * w.width;
        float* const target = results + first * outputs;
        for (int64_t x = 0; x < w.width; ++x) {
          const float* const add = addends ? addend(addends, first + x) : nullptr;
          for (int64_t i = 0; i < outputs; ++i) {
            target[x * outputs + i] = (bias_.empty() ? 0 : bias_[i]) + (add ? add[i] : 0);
          }
        }
        for (int64_t tap = 0; tap < w.taps(); ++tap) {
          const int64_t row = w.row(y, tap / w.size.width);
          if (row < 0) continue;
          const float* const source = products + row * w.memory_width() * stride + tap * outputs;
          for (int64_t x = 0; x < w.width; ++x) {
            const int64_t column = w.column(x, tap % w.size.width);
            if (column < 0) continue;
            for (int64_t i = 0; i < outputs; ++i) {
              target[x * outputs + i] += source[column * stride + i];
            }
          }
        }
      }
    });
    activate(run);
  }

 protected:
  const char* kind() const override { return "by taps"; }

 private:
  // The products of each pixel with all taps.
  class Products : public Dense {
   public:
    using Dense::Dense;
    const Place& output() const { return layer_.output; }
  };

  static Linear product_layer(const Linear& layer, const Place& temporary) {
    Linear result;
    result.window.height = result.window.input_height = layer.window.memory_pixels();
    result.inputs = layer.inputs;
    result.outputs = layer.window.taps() * layer.outputs;
    result.input = layer.input;
    result.output = temporary;
    return result;
  }

  Products products_;
};

}  // namespace

NonZeros::NonZeros(const Linear& layer)
    : num_taps(layer.window.taps()), num_inputs(layer.inputs) {
  std::vector<Each> found;
  found.reserve(layer.kernel->count);
  std::vector<int32_t> next(num_inputs + 1);
  visit_kernel(layer, [&](int64_t tap, int64_t input, int64_t output, float value) {
    found.push_back({static_cast<int32_t>(tap), static_cast<int32_t>(input),
                     static_cast<int32_t>(output), value});
    ++next[input + 1];
  });
  for (int64_t i = 0; i < num_inputs; ++i) next[i + 1] += next[i];
  all.resize(found.size());
  for (const Each& each : found) all[next[each.input]++] = each;
}

bool Linear::is_sparse() const {
  return kernel->is_coded &&
         static_cast<double>(kernel->count) <= kDensest * static_cast<double>(kernel->size());
}

bool Linear::can_be_half(const MachineCode& code) const {
  return code.halves && is_sparse() && Packed<Half>::can(*this, code) &&
         (activation.is_linear() || activation.is_plain_relu());
}

int64_t temporary_size(const Linear& layer, const MachineCode& code) {
  if (layer.is_sparse() || !ByTaps::is_better(layer, code.loops->panel)) return 0;
  return layer.window.memory_pixels() * layer.window.taps() * layer.outputs;
}

Status make_linear(const Linear& layer, const MachineCode& code, int64_t max_images,
                   int max_threads, const Place& temporary, std::unique_ptr<Step>* step) {
  if (layer.is_sparse()) {
    if (layer.input.is_half) {
      *step = std::make_unique<Packed<Half>>(layer, code, max_images, max_threads);
    } else if (is_better_before_upsampling(layer, code, max_images)) {
      *step = make_upsampled(layer, code, max_images, max_threads);
    } else if (Packed<float>::can(layer, code)) {
      *step = std::make_unique<Packed<float>>(layer, code, max_images, max_threads);
    } else if (Gathered::can(layer, code)) {
      *step = std::make_unique<Gathered>(layer, code);
    } else {
      return unsupported("A sparse layer has too many inputs for this library.");
    }
    return {};
  }
  if (temporary.is_there()) {
    auto made = std::make_unique<ByTaps>(layer, code, temporary);
    STUGAN_RETURN_IF_ERROR(made->read(layer));
    *step = std::move(made);
    return {};
  }
  auto made = std::make_unique<Dense>(layer, code);
  STUGAN_RETURN_IF_ERROR(made->read(layer, false));
  *step = std::move(made);
  return {};
}

}  // namespace stugan
