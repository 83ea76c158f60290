// Sparse convolutions of upsampled images, computed before the upsampling.
//
// A tap that lies an even number of rows off its output meets the same row of the small image for
// output rows 2 i and 2 i + 1; one that lies an odd number off for 2 i - 1 and 2 i. So do columns.
// Of all taps with the same two parities the products are added up on tiles of the small image, and
// the four sums are upsampled and added: a quarter of the products, and a little for the edges of
// the tiles.

#include <algorithm>
#include <cstdint>

#include "layout.h"
#include "linear.h"

namespace stugan {
namespace {

constexpr int kFactor = 2;

// How one axis of the window meets the small image.
struct Axis {
  int64_t size, padding;  // Of the upsampled image.

  // Rows of the small image before an output, and how many an output tile of 2 rows meets.
  int64_t before() const { return (padding + 1) / 2; }
  int64_t reach() const { return ((size - 2 - padding) >> 1) + before() + 2; }

  // Where the rows of a tap begin in the input tile.
  int64_t first(int64_t tap) const { return ((tap - padding) >> 1) + before(); }
  bool is_odd(int64_t tap) const { return (tap - padding) & 1; }

  // The mean number of rows that taps meet, of a tile of `length`.
  double mean(int64_t length) const {
    int64_t odd = 0;
    for (int64_t tap = 0; tap < size; ++tap) odd += is_odd(tap);
    return static_cast<double>(length) + static_cast<double>(odd) / static_cast<double>(size);
  }
};

// The tiles of the small images, and those of the upsampled ones.
struct Tilings {
  Axis rows, columns;
  Tiling small, large;

  Tilings(const Window& w, const MachineCode& code, int64_t num_images, int index)
      : rows{w.size.height, w.padding.height},
        columns{w.size.width, w.padding.width},
        small{{num_images, (w.height + 1) / kFactor, (w.width + 1) / kFactor,
               w.input_height / kFactor, w.input_width / kFactor, rows.reach(), columns.reach(),
               rows.before(), columns.before(), w.upsampling / kFactor, 1},
              code.tiles->tiles[index],
              index,
              code.tiles->lanes},
        large{geometry_of(w, num_images),
              {small.tile.height * kFactor, small.tile.width * kFactor},
              index,
              code.tiles->lanes} {}

  // Vectors of an output's sums.
  int64_t sums() const {
    return (2 * small.tile.height + 1) * (2 * small.tile.width + 1);
  }

  // Input channels whose packed tiles stay in the cache.
  int64_t block() const { return small.block(); }

  // As that of Tiling.
  double cost(int64_t inputs, int64_t outputs, int64_t non_zeros, int64_t num_threads) const {
    const double blocks = static_cast<double>(inputs + block() - 1) / block();
    const double group =
        6.0 * (small.input_pixels() * inputs + large.pixels() * outputs) +
        non_zeros * (rows.mean(small.tile.height) * columns.mean(small.tile.width) + 3.0) +
        blocks * outputs * (2 * sums() + 4 * 15.0) + 3.0 * large.pixels() * outputs;
    const int64_t groups = small.num_groups();
    return group * (groups < num_threads ? 1.0 : static_cast<double>(groups) / num_threads);
  }
};

class Upsampled : public LinearStep<float> {
 public:
  Upsampled(const Linear& layer, const MachineCode& code, int64_t max_images, int max_threads)
      : LinearStep(layer, code), num_non_zeros_(layer.kernel->count) {
    const NonZeros kernel(layer);
    for (int64_t n = 1; n <= max_images; ++n) {
      for (const int threads : {1, max_threads}) {
        const Tilings tilings = this->tilings(n, threads);
        if (lists_[tilings.small.index].begin.empty()) fill(kernel, tilings);
      }
    }
  }

  static bool can(const Linear& layer, const MachineCode& code) {
    const Window& w = layer.window;
    const int64_t largest = (w.size.height + 3) * (w.size.width + 3) * code.tiles->lanes;
    const int64_t results = 80 * code.tiles->lanes;
    return !w.transposed && w.strides.is(1) && w.upsampling % kFactor == 0 && w.taps() > 1 &&
           w.size.height <= 8 && w.size.width <= 8 && layer.inputs <= kMaxPacked / largest &&
           layer.outputs <= kMaxPacked / results;
  }

  Needs needs(int64_t num_images) const override {
    Needs most;
    for (int index = 0; index < kNumTiles; ++index) {
      const Tilings t(layer_.window, code_, num_images, index);
      const int64_t lanes = t.small.lanes, sources = t.small.input_pixels() * lanes;
      most.floats = std::max(most.floats,
                             sources * layer_.inputs +
                                 (t.sums() + t.large.pixels()) * lanes * layer_.outputs);
      most.pointers = std::max(most.pointers, sources + 2 * t.large.pixels() * lanes +
                                                  num_pointers(sources));
    }
    return most;
  }

  int64_t weight_bytes() const override {
    int64_t total = LinearStep::weight_bytes();
    for (const Lists<float>& lists : lists_) total += lists.num_bytes();
    return total;
  }

  int64_t num_products() const override {
    return num_non_zeros_ * layer_.window.pixels() / (kFactor * kFactor);
  }

  void run(const Run& run) const override {
    const Tilings tilings = this->tilings(run.num_images(), run.num_threads());
    const Tiling &small = tilings.small, &large = tilings.large;
    const Lists<float>& lists = lists_[small.index];
    const InstructionSet& code = *code_.tiles;
    const int64_t inputs = layer_.inputs, outputs = layer_.outputs, lanes = small.lanes;
    const int64_t block_size = tilings.block();
    const int64_t parts = num_parts(run.num_threads(), small.num_groups(), outputs);
    const int64_t part_size = (outputs + parts - 1) / parts;
    const float* const images = run.at(layer_.input);
    const float* const addends = run.at(layer_.addend);
    float* const results = run.at(layer_.output);
    run.parallel(small.num_groups() * parts, [&](int64_t unit, Scratch& scratch) {
      const int64_t group = unit / parts, first = unit % parts * part_size;
      const int64_t count = std::min(part_size, outputs - first);
      if (count <= 0) return;
      const int64_t num_sources = small.input_pixels() * lanes;
      const int64_t num_targets = large.pixels() * lanes;
      float* const x = scratch.floats.data();
      float* const y = x + num_sources * inputs;
      float* const sums = y + num_targets * count;
      const float** const from = scratch.pointers.data();
      const float** const add = from + num_sources;
      float** const to = const_cast<float**>(add + num_targets);
      small.sources(group, images, inputs, from);
      code.pack(from, small.input_pixels(), inputs,
                before(run, images, from, num_sources, add + 2 * num_targets), x);
      for (int64_t block = 0, input = 0; input < inputs; ++block, input += block_size) {
        code.convolve_small[small.index](x + input * num_sources, small.input_width() * lanes,
                                         lists.offsets.data(), lists.values.data(),
                                         lists.begin.data() + 4 * (block * outputs + first),
                                         count, block == 0, sums);
      }
      code.upsample[small.index](sums, count, y);
      large.targets(group, 1, results + first, outputs, to);
      if (addends) {
        large.targets(group, layer_.addend_upsampling, addends + first, outputs, add);
      }
      code.unpack(y, large.pixels(), count, bias_.empty() ? nullptr : bias_.data() + first,
                  addends ? add : nullptr, rectifies(), to);
    });
    if (!rectifies()) activate(run);
  }

 protected:
  const char* kind() const override { return "upsampled"; }

 private:
  Tilings tilings(int64_t num_images, int num_threads) const {
    const auto cost = [&](const Tilings& tilings) {
      return tilings.cost(layer_.inputs, layer_.outputs, num_non_zeros_, num_threads);
    };
    Tilings best(layer_.window, code_, num_images, 0);
    for (int index = 1; index < kNumTiles; ++index) {
      const Tilings other(layer_.window, code_, num_images, index);
      if (cost(other) < cost(best)) best = other;
    }
    return best;
  }

  void fill(const NonZeros& kernel, const Tilings& tilings) {
    using Where = Lists<float>::Where;
    const Tiling& small = tilings.small;
    const int64_t block_size = tilings.block(), columns = layer_.window.size.width;
    const int64_t num_blocks = (layer_.inputs + block_size - 1) / block_size;
    lists_[small.index].fill(
        kernel, num_blocks * layer_.outputs * 4, 4,
        [&](int64_t input) -> Where {
          return {input / block_size * layer_.outputs * 4,
                  input % block_size * small.input_pixels() * small.lanes};
        },
        [&](int64_t tap) -> Where {
          const int64_t y = tap / columns, x = tap % columns;
          return {2 * tilings.rows.is_odd(y) + tilings.columns.is_odd(x),
                  (tilings.rows.first(y) * small.input_width() + tilings.columns.first(x)) *
                      small.lanes};
        });
  }

  Lists<float> lists_[kNumTiles];  // Those of the tiles that are used.
  int64_t num_non_zeros_;
};

}  // namespace

bool is_better_before_upsampling(const Linear& layer, const MachineCode& code,
                                 int64_t max_images) {
  if (!Upsampled::can(layer, code)) return false;
  // By the largest run, and one image: the choice must be the same for all, since each way rounds
  // in its own.
  double direct = 0, before = 0;
  for (const int64_t n : {int64_t{1}, max_images}) {
    double best_direct = 0, best_before = 0;
    for (int index = 0; index < kNumTiles; ++index) {
      const Tiling tiling{geometry_of(layer.window, n), code.tiles->tiles[index], index,
                          code.tiles->lanes};
      const Tilings tilings(layer.window, code, n, index);
      const int64_t count = layer.kernel->count;
      const double a = tiling.cost(layer.inputs, layer.outputs, count, 1);
      const double b = tilings.cost(layer.inputs, layer.outputs, count, 1);
      if (index == 0 || a < best_direct) best_direct = a;
      if (index == 0 || b < best_before) best_before = b;
    }
    direct += best_direct / n;
    before += best_before / n;
  }
  return before < direct;
}

std::unique_ptr<Step> make_upsampled(const Linear& layer, const MachineCode& code,
                                     int64_t max_images, int max_threads) {
  return std::make_unique<Upsampled>(layer, code, max_images, max_threads);
}

}  // namespace stugan
