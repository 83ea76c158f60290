// The steps of which making images consists: layers, with what surrounds them done in passing.

#ifndef STUGAN_RUNTIME_STEPS_H_
#define STUGAN_RUNTIME_STEPS_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "graph.h"
#include "machine_code.h"
#include "memory.h"
#include "threads.h"

namespace stugan {

// Where the numbers of a tensor are: those of image i begin at i * size.
struct Place {
  enum Where { kNowhere, kArena, kLatents, kImages };
  Where where = kNowhere;
  int64_t size = 0;      // Numbers of an image.
  int64_t offset = 0;    // In the arena, for each image, in floats.
  bool is_half = false;  // Of half precision; only in the arena.

  bool is_there() const { return where != kNowhere; }
};

// What one thread writes to while it works on a step.
struct Scratch {
  Array<float> floats;
  Array<const float*> pointers;
};

// How much of it a step needs.
struct Needs {
  int64_t floats = 0, pointers = 0;
};

// A few images on their way through the network.
class Run {
 public:
  // A thread with its own images, or, with a pool, all threads with the same ones.
  //   scratch: of each thread, or of this one.
  Run(int64_t num_images, float* arena, Scratch* scratch, Pool* pool)
      : num_images_(num_images), arena_(arena), scratch_(scratch), pool_(pool) {}

  const float* latents = nullptr;
  const int32_t* labels = nullptr;
  float* images = nullptr;

  int64_t num_images() const { return num_images_; }
  int num_threads() const { return pool_ ? pool_->size() : 1; }

  // The numbers of a tensor in single precision, null if it is nowhere.
  float* at(const Place& place) const {
    switch (place.where) {
      case Place::kArena: return arena_ + place.offset * num_images_;
      case Place::kLatents: return const_cast<float*>(latents);  // Only steps' inputs are there.
      case Place::kImages: return images;
      case Place::kNowhere: break;
    }
    return nullptr;
  }

  // The numbers of a tensor, in the precision that it has.
  template <typename Number>
  Number* numbers(const Place& place) const {
    return reinterpret_cast<Number*>(at(place));
  }

  // Calls work(unit, scratch) for each unit, by all threads of the run.
  template <typename Work>
  void parallel(int64_t num_units, const Work& work) const {
    if (!pool_) {
      for (int64_t unit = 0; unit < num_units; ++unit) work(unit, *scratch_);
      return;
    }
    const auto call = [&work, this](int64_t unit, int thread) { work(unit, scratch_[thread]); };
    pool_->parallel(num_units, std::cref(call));
  }

  // Calls work(image, first, last) for ranges of `size` things of each image; `weight` floats each.
  template <typename Work>
  void parallel_ranges(int64_t size, int64_t weight, const Work& work) const {
    const int64_t length = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, weight));
    const int64_t parts = (size + length - 1) / length;
    parallel(num_images_ * parts, [&](int64_t unit, Scratch&) {
      const int64_t first = unit % parts * length;
      work(unit / parts, first, std::min(size, first + length));
    });
  }

 private:
  int64_t num_images_;
  float* arena_;
  Scratch* scratch_;
  Pool* pool_;
};

class Step {
 public:
  virtual ~Step() = default;

  // What it is, for measurements.
  virtual std::string name() const = 0;

  // Computes for all images of a run.
  virtual void run(const Run& run) const = 0;

  // What each thread needs for a run of so many images.
  virtual Needs needs(int64_t num_images) const {
    static_cast<void>(num_images);
    return {};
  }

  // Bytes of weights.
  virtual int64_t weight_bytes() const { return 0; }

  // Multiplications for an image.
  virtual int64_t num_products() const { return 0; }
};

// How outputs of a layer depend on pixels of its input: a window that moves, or with `transposed`
// the other way round. The input is upsampled in passing.
struct Window {
  int64_t input_height = 1, input_width = 1;  // After upsampling.
  int64_t height = 1, width = 1;              // Of the output.
  Pair size, strides, padding{0, 0};
  bool transposed = false;
  int64_t upsampling = 1;

  int64_t pixels() const { return height * width; }
  int64_t taps() const { return size.height * size.width; }
  int64_t memory_width() const { return input_width / upsampling; }
  int64_t memory_pixels() const { return input_height / upsampling * memory_width(); }

  // The row (column) in memory that a tap of an output row (column) meets, or -1.
  int64_t row(int64_t y, int64_t tap) const {
    return source(y, tap, strides.height, padding.height, input_height);
  }
  int64_t column(int64_t x, int64_t tap) const {
    return source(x, tap, strides.width, padding.width, input_width);
  }

 private:
  int64_t source(int64_t at, int64_t tap, int64_t stride, int64_t before, int64_t length) const {
    int64_t i = transposed ? at + before - tap : at * stride + tap - before;
    if (i < 0) return -1;
    if (transposed) {
      if (i % stride != 0) return -1;
      i /= stride;
    }
    return i < length ? i / upsampling : -1;
  }
};

// A layer with a kernel, and what is done before and after it.
struct Linear {
  Window window;
  int64_t inputs = 0, outputs = 0;  // Channels.
  Place input, output;
  Place addend;                   // Added to the output, or nowhere.
  int64_t addend_upsampling = 1;
  const Weight* kernel = nullptr;
  const Weight* bias = nullptr;   // Or null, as is `scale`.
  const Weight* scale = nullptr;  // Done to inputs of sparse layers.
  const Weight* shift = nullptr;
  Place image_scale, image_shift; // [inputs] of each image, in place of these; or nowhere.
  bool relu = false;
  Activation activation;          // Done to outputs.

  // Whether products are computed at the non-zeros.
  bool is_sparse() const;

  // Whether the layer can be computed in half precision: its inputs, addend, output and sums.
  bool can_be_half(const MachineCode& code) const;
};

// The floats for each image that the step of a layer needs in the arena while it runs.
int64_t temporary_size(const Linear& layer, const MachineCode& code);

// Makes the step of a layer, in half precision if its input is.
//   max_images: of a run.
//   temporary: of `temporary_size`, nowhere if that is 0.
Status make_linear(const Linear& layer, const MachineCode& code, int64_t max_images,
                   int max_threads, const Place& temporary, std::unique_ptr<Step>* step);

// y = activation(x * scale + shift), channel by channel. The input may be of half precision.
struct Affine {
  int64_t rows = 1, channels = 1;
  Place input, output;
  Place image_scale, image_shift;         // [channels] of each image, or nowhere.
  const Weight* scale = nullptr;          // [channels] of all images, or null.
  const Weight* shift = nullptr;
  Activation activation;
};

std::unique_ptr<Step> make_affine(const Affine& affine, const MachineCode& code);

// A tensor in the other precision.
std::unique_ptr<Step> make_conversion(Place input, Place output, const MachineCode& code);

// The sum or product of two tensors, either repeated along sizes of 1.
std::unique_ptr<Step> make_binary(bool is_product, const std::vector<int64_t>& shape, Place a,
                                  std::vector<int64_t> a_shape, Place b,
                                  std::vector<int64_t> b_shape, Place output,
                                  const MachineCode& code);

// Rows of a table, one for the label of each image.
std::unique_ptr<Step> make_embedding(const Weight& table, Place output);

// Copies of parts of images: `length` floats from input + first to output + target, `count` times,
// `input_stride` and `output_stride` apart.
struct Copy {
  Place input, output;
  int64_t count = 1, length = 0, first = 0, input_stride = 0, target = 0, output_stride = 0;
};
std::unique_ptr<Step> make_copy(const Copy& copy);

std::unique_ptr<Step> make_upsampling(const Node& node, const Node& input, Place from, Place to);
std::unique_ptr<Step> make_pooling(const Node& node, const Node& input, Place from, Place to);

// softmax(query keys^T) values, of matrices [num_queries][depth], [num_keys][depth] and
// [num_keys][num_values].
struct Attention {
  int64_t num_queries = 0, num_keys = 0, depth = 0, num_values = 0;
  Place query, value, key, output;
  Place temporary;  // Of `temporary_size`.

  int64_t temporary_size(const MachineCode& code) const;
};
std::unique_ptr<Step> make_attention(const Attention& attention, const MachineCode& code);

}  // namespace stugan

#endif  // STUGAN_RUNTIME_STEPS_H_
