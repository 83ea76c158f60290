// The TensorFlow operations: shapes, checks, and the division of labour among threads.
//
// SparseConvolution computes a stride 1 convolution on the non-zeros of its kernel, and in passing
// what usually surrounds one:
//
//     input -> scale, shift -> ReLU -> upsampling -> convolution -> pooling -> bias -> residual
//
// With the kernel transposed it is its own gradient with respect to the upsampled input, pooling
// that of upsampling, and the other way round. SparseConvolutionKernelGradient computes the gradient
// with respect to the kernel where a mask is not zero. ChannelMoments and NormalizationGradient are
// batch normalization's part in this.
//
// All are pure functions of dense tensors. No indices come in, so none can be wrong; a kernel that
// is not sparse at all is only slow.

#include <algorithm>
#include <atomic>
#include <iterator>
#include <limits>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "machine.h"
#include "pattern.h"
#include "sparse_convolution.h"
#include "tiling.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/platform/threadpool.h"

namespace stugan {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Status;
using tensorflow::Tensor;
using tensorflow::TensorShape;

template <typename... Parts>
Status InvalidArgument(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// The best instruction set of this machine that is no better than the one named, null if there is
// no such name.
const InstructionSet* instruction_set(const std::string& name) {
  const char* const names[] = {"baseline", "x86-64-v3", "x86-64-v4", "best"};
  const auto* const found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) return nullptr;
  const int level = std::min(static_cast<int>(found - std::begin(names)), machine_level());
#ifdef STUGAN_X86_64
  if (level == 2) return &kX86V4;
  if (level == 1) return &kX86V3;
#endif
  return &kBaseline;
}

Status choose_code(OpKernelConstruction* context, const InstructionSet** code) {
  std::string name;
  TF_RETURN_IF_ERROR(context->GetAttr("instruction_set", &name));
  *code = instruction_set(name);
  if (*code) return tensorflow::OkStatus();
  return InvalidArgument("instruction_set must be best, x86-64-v4, x86-64-v3 or baseline, got ",
                         name, ".");
}

// Memory for packed tiles, aligned for whole vectors and freed with the scope.
class Scratch {
 public:
  explicit Scratch(int64_t num_floats)
      : data_(static_cast<float*>(
            tensorflow::port::AlignedMalloc(std::max<int64_t>(num_floats, 1) * 4, 64))) {}
  ~Scratch() { tensorflow::port::AlignedFree(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* get() const { return data_; }

 private:
  float* data_;
};

// The numbers of an optional vector of one per channel, or null.
const float* optional(const Tensor& tensor) {
  return tensor.NumElements() == 0 ? nullptr : tensor.flat<float>().data();
}

tensorflow::thread::ThreadPool* threads(OpKernelContext* context) {
  return context->device()->tensorflow_cpu_worker_threads()->workers;
}

// Calls worker(0), ..., worker(num_workers - 1), at once where threads are free.
template <typename Worker>
void parallel(OpKernelContext* context, int64_t num_workers, Worker worker) {
  if (num_workers == 1) return worker(0);
  const auto one_each = tensorflow::thread::ThreadPool::SchedulingParams::Fixed(1);
  threads(context)->ParallelFor(num_workers, one_each, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) worker(i);
  });
}

// The input tiles of one group after the other, as the inner loops read them.
class PackedInput {
 public:
  PackedInput(const InstructionSet& code, const Tiling& tiling, const float* images,
              int64_t channels, const Prologue& before)
      : code_(code),
        tiling_(tiling),
        images_(images),
        channels_(channels),
        before_(before),
        sums_first_(tiling.geometry.pooling > 1),
        sources_(tiling.source_pixels() * tiling.lanes),
        of_block_(sums_first_ ? sources_.size() : 0),
        packed_(tiling.source_pixels() * tiling.lanes *
                (sums_first_ ? tiling.block() : channels)),
        sums_(sums_first_ ? tiling.input_pixels() * tiling.lanes * tiling.block() : 0) {}

  void move_to(int64_t group) {
    tiling_.sources(group, images_, channels_, sources_.data());
    if (sums_first_) return;
    code_.pack(sources_.data(), tiling_.source_pixels(), channels_, before_, packed_.get());
  }

  // The tiles of a block of channels. Valid until the next call.
  const float* block(int64_t block) {
    const int64_t first = block * tiling_.block();
    if (!sums_first_) return packed_.get() + first * tiling_.input_pixels() * tiling_.lanes;
    for (size_t i = 0; i < sources_.size(); ++i) {
      of_block_[i] = sources_[i] ? sources_[i] + first : nullptr;
    }
    const int64_t count = std::min(tiling_.block(), channels_ - first);
    const Prologue before{before_.scale ? before_.scale + first : nullptr,
                          before_.shift ? before_.shift + first : nullptr, before_.relu};
    code_.pack(of_block_.data(), tiling_.source_pixels(), count, before, packed_.get());
    code_.sum_neighbours(packed_.get(), count, tiling_.source_height(), tiling_.source_width(),
                         sums_.get());
    return sums_.get();
  }

  int64_t row_stride() const {
    return tiling_.input_width() * tiling_.geometry.pooling * tiling_.lanes;
  }

 private:
  const InstructionSet& code_;
  const Tiling& tiling_;
  const float* const images_;
  const int64_t channels_;
  const Prologue before_;
  const bool sums_first_;
  std::vector<const float*> sources_, of_block_;
  const Scratch packed_, sums_;
};

class SparseOperation : public OpKernel {
 public:
  explicit SparseOperation(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("paddings", &paddings_));
    OP_REQUIRES(context, paddings_.size() == 4,
                InvalidArgument("paddings must be [top, bottom, left, right], got ",
                                paddings_.size(), " numbers."));
    OP_REQUIRES_OK(context, choose_code(context, &code_));
  }

 protected:
  Status check(const TensorShape& input, const TensorShape& kernel) const {
    if (input.dims() != 4 || kernel.dims() != 4) {
      return InvalidArgument("Need images [B, H, W, C] and a kernel [height, width, C, C'], got ",
                             input.DebugString(), " and ", kernel.DebugString(), ".");
    }
    if (kernel.num_elements() > std::numeric_limits<int32_t>::max()) {
      return InvalidArgument("The kernel has more than 2^31 weights: ", kernel.DebugString(), ".");
    }
    for (int i = 0; i < 4; ++i) {
      if (paddings_[i] < 0 || paddings_[i] >= std::max<int64_t>(kernel.dim_size(i / 2), 1)) {
        return InvalidArgument("Each of the paddings must be at least 0 and less than the kernel ",
                               kernel.DebugString(), ", got ", paddings_[i], ".");
      }
    }
    return tensorflow::OkStatus();
  }

  static Status check_prologue(const Tensor& scale, const Tensor& shift, int64_t channels) {
    const int64_t size = scale.NumElements();
    if (shift.NumElements() == size && (size == 0 || size == channels)) {
      return tensorflow::OkStatus();
    }
    return InvalidArgument("scale and shift must both have ", channels, " numbers or none.");
  }

  Tiling tiling(const Geometry& geometry, int64_t sources, int64_t targets, int64_t non_zeros,
                int64_t num_threads) const {
    Tiling best{geometry, code_->tiles[0], 0, code_->lanes};
    for (int i = 1; i < kNumTiles; ++i) {
      const Tiling other{geometry, code_->tiles[i], i, code_->lanes};
      if (other.cost(sources, targets, non_zeros, num_threads) <
          best.cost(sources, targets, non_zeros, num_threads)) {
        best = other;
      }
    }
    return best;
  }

  std::shared_ptr<const Pattern> find_pattern(OpKernelContext* context, const Tiling& tiling,
                                              const Tensor& kernel, bool transposed,
                                              std::vector<float>* values) {
    const Layout layout{kernel.dim_size(0),   kernel.dim_size(1),    kernel.dim_size(2),
                        kernel.dim_size(3),   transposed,            tiling.block(),
                        tiling.input_width(), tiling.input_pixels(), tiling.lanes,
                        tiling.geometry.pooling};
    return patterns_.find(layout, kernel.flat<float>().data(), values,
                          [context](int64_t num_parts, const auto& worker) {
                            parallel(context, num_parts, worker);
                          });
  }

  // Reads how much images are resized by.
  static Status factor(OpKernelConstruction* context, const char* name, int64_t* value) {
    TF_RETURN_IF_ERROR(context->GetAttr(name, value));
    if (*value != 1 && *value != 2) {
      return InvalidArgument(name, " must be 1 or 2, got ", *value, ".");
    }
    return tensorflow::OkStatus();
  }

  const InstructionSet* code_;
  std::vector<int64_t> paddings_;

 private:
  PatternCache patterns_;
};

class SparseConvolution : public SparseOperation {
 public:
  explicit SparseConvolution(OpKernelConstruction* context) : SparseOperation(context) {
    OP_REQUIRES_OK(context, context->GetAttr("transposed", &transposed_));
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
    OP_REQUIRES_OK(context, factor(context, "upsampling", &upsampling_));
    OP_REQUIRES_OK(context, factor(context, "pooling", &pooling_));
    OP_REQUIRES_OK(context, factor(context, "residual_upsampling", &residual_upsampling_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &input = context->input(0), &kernel = context->input(1);
    const Tensor &scale = context->input(2), &shift = context->input(3);
    const Tensor &bias = context->input(4), &residual = context->input(5);
    OP_REQUIRES_OK(context, check(input.shape(), kernel.shape()));
    const int64_t batch = input.dim_size(0);
    const int64_t kernel_height = kernel.dim_size(0), kernel_width = kernel.dim_size(1);
    const int64_t sources = kernel.dim_size(transposed_ ? 3 : 2);
    const int64_t targets = kernel.dim_size(transposed_ ? 2 : 3);
    OP_REQUIRES(context, input.dim_size(3) == sources,
                InvalidArgument("The images have ", input.dim_size(3), " channels, the kernel ",
                                kernel.shape().DebugString(), " takes ", sources, "."));
    OP_REQUIRES_OK(context, check_prologue(scale, shift, sources));
    OP_REQUIRES(context, bias.NumElements() == 0 || bias.NumElements() == targets,
                InvalidArgument("bias must have ", targets, " numbers or none, got ",
                                bias.NumElements(), "."));
    int64_t pads[4];
    for (int i = 0; i < 4; ++i) {
      pads[i] = transposed_ ? kernel.dim_size(i / 2) - 1 - paddings_[i] : paddings_[i];
    }
    const int64_t input_height = input.dim_size(1) * upsampling_;
    const int64_t input_width = input.dim_size(2) * upsampling_;
    const int64_t height = input_height + pads[0] + pads[1] - kernel_height + 1;
    const int64_t width = input_width + pads[2] + pads[3] - kernel_width + 1;
    OP_REQUIRES(context, kernel_height > 0 && kernel_width > 0 && height >= 0 && width >= 0,
                InvalidArgument("Images ", input.shape().DebugString(), " are too small for the ",
                                "kernel ", kernel.shape().DebugString(), "."));
    OP_REQUIRES(context, height % pooling_ == 0 && width % pooling_ == 0,
                InvalidArgument("An output of ", height, "x", width, " cannot be pooled by 2."));
    const TensorShape shape({batch, height / pooling_, width / pooling_, targets});
    const bool has_residual = residual.NumElements() > 0;
    OP_REQUIRES(context, !has_residual ||
                             (shape.dim_size(1) % residual_upsampling_ == 0 &&
                              shape.dim_size(2) % residual_upsampling_ == 0 &&
                              residual.shape() == TensorShape({batch,
                                                               shape.dim_size(1) /
                                                                   residual_upsampling_,
                                                               shape.dim_size(2) /
                                                                   residual_upsampling_,
                                                               targets})),
                InvalidArgument("A residual ", residual.shape().DebugString(), " upsampled by ",
                                residual_upsampling_, " does not fit ", shape.DebugString(), "."));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &output));
    if (output->NumElements() == 0) return;

    const Geometry full{batch,        shape.dim_size(1), shape.dim_size(2), input_height,
                        input_width,  kernel_height,     kernel_width,      pads[0],
                        pads[2],      upsampling_,       pooling_};
    const Geometry geometry = has_residual && residual_upsampling_ > 1 ? full : full.flattened();
    const int64_t num_threads = threads(context)->NumThreads();
    // The density is not known before the pattern, which depends on the tiling: guess it low, where
    // the choice matters.
    const Tiling tiling =
        this->tiling(geometry, sources, targets, kernel.NumElements() / 10, num_threads);
    std::vector<float> values;
    const auto pattern = find_pattern(context, tiling, kernel, transposed_, &values);

    // Where there are few groups, threads share one and each packs its input for itself.
    const int64_t num_groups = tiling.num_groups();
    const int64_t num_parts =
        std::min(targets, std::max<int64_t>(1, num_threads / std::max<int64_t>(1, num_groups)));
    const int64_t num_units = num_groups * num_parts;
    const int64_t num_workers = std::min(num_threads, num_units);
    const int64_t part_size = (targets + num_parts - 1) / num_parts;
    const float* const images = input.flat<float>().data();
    const Prologue before{optional(scale), optional(shift), relu_};
    const float* const addends = has_residual ? residual.flat<float>().data() : nullptr;
    float* const results = output->flat<float>().data();
    std::atomic<int64_t> next_unit{0};
    parallel(context, num_workers, [&](int64_t) {
      const int lanes = tiling.lanes;
      PackedInput x(*code_, tiling, images, sources, before);
      const Scratch y(tiling.pixels() * lanes * part_size);
      std::vector<const float*> add(tiling.pixels() * lanes);
      std::vector<float*> to(tiling.pixels() * lanes);
      for (int64_t unit; (unit = next_unit++) < num_units;) {
        const int64_t group = unit / num_parts, first = unit % num_parts * part_size;
        const int64_t num_targets = std::min(part_size, targets - first);
        if (num_targets <= 0) continue;
        x.move_to(group);
        for (int64_t block = 0; block < pattern->layout.num_blocks(); ++block) {
          code_->convolve[tiling.index](
              x.block(block), x.row_stride(), pattern->offsets.data(), values.data(),
              pattern->begin.data() + block * targets + first, num_targets, block == 0, y.get());
        }
        if (sources == 0) std::fill_n(y.get(), tiling.pixels() * lanes * num_targets, 0.0f);
        tiling.targets(group, 1, results + first, targets, to.data());
        if (has_residual) {
          tiling.targets(group, residual_upsampling_, addends + first, targets, add.data());
        }
        code_->unpack(y.get(), tiling.pixels(), num_targets,
                      bias.NumElements() == 0 ? nullptr : optional(bias) + first,
                      has_residual ? add.data() : nullptr, false, to.data());
      }
    });
  }

 private:
  bool transposed_, relu_;
  int64_t upsampling_, pooling_, residual_upsampling_;
};

class SparseConvolutionKernelGradient : public SparseOperation {
 public:
  explicit SparseConvolutionKernelGradient(OpKernelConstruction* context)
      : SparseOperation(context) {
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
    OP_REQUIRES_OK(context, factor(context, "upsampling", &upsampling_));
    OP_REQUIRES_OK(context, factor(context, "pooling", &pooling_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &input = context->input(0), &gradient = context->input(1);
    const Tensor& mask = context->input(2);
    const Tensor &scale = context->input(3), &shift = context->input(4);
    OP_REQUIRES_OK(context, check(input.shape(), mask.shape()));
    const int64_t sources = mask.dim_size(2), targets = mask.dim_size(3);
    const int64_t input_height = input.dim_size(1) * upsampling_;
    const int64_t input_width = input.dim_size(2) * upsampling_;
    const int64_t height = input_height + paddings_[0] + paddings_[1] - mask.dim_size(0) + 1;
    const int64_t width = input_width + paddings_[2] + paddings_[3] - mask.dim_size(1) + 1;
    OP_REQUIRES(context, mask.dim_size(0) > 0 && mask.dim_size(1) > 0 && height >= 0 &&
                             width >= 0 && height % pooling_ == 0 && width % pooling_ == 0 &&
                             input.dim_size(3) == sources &&
                             gradient.shape() == TensorShape({input.dim_size(0), height / pooling_,
                                                              width / pooling_, targets}),
                InvalidArgument("Images ", input.shape().DebugString(), ", the gradient ",
                                gradient.shape().DebugString(), " and the mask ",
                                mask.shape().DebugString(), " do not belong together."));
    OP_REQUIRES_OK(context, check_prologue(scale, shift, sources));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, mask.shape(), &output));
    float* const result = output->flat<float>().data();
    std::fill_n(result, output->NumElements(), 0.0f);
    if (output->NumElements() == 0 || gradient.NumElements() == 0) return;

    // The gradient of a kernel is the product of inputs and gradients, one of them shifted. Either
    // can be. Upsampled inputs are not, and the gradient is summed where they are repeated.
    const bool swapped = upsampling_ > 1 && pooling_ == 1;
    const Tensor &shifted = swapped ? gradient : input, &fixed = swapped ? input : gradient;
    const int64_t top = swapped ? mask.dim_size(0) - 1 - paddings_[0] : paddings_[0];
    const int64_t left = swapped ? mask.dim_size(1) - 1 - paddings_[2] : paddings_[2];
    const Geometry full{input.dim_size(0),
                        fixed.dim_size(1),
                        fixed.dim_size(2),
                        swapped ? height : input_height,
                        swapped ? width : input_width,
                        mask.dim_size(0),
                        mask.dim_size(1),
                        top,
                        left,
                        swapped ? 1 : upsampling_,
                        swapped ? upsampling_ : pooling_};
    const int64_t num_threads = threads(context)->NumThreads();
    const Tiling tiling = this->tiling(full.flattened(), shifted.dim_size(3), fixed.dim_size(3),
                                       mask.NumElements() / 10, num_threads);
    std::vector<float> values;
    const auto pattern = find_pattern(context, tiling, mask, swapped, &values);

    // Each worker has its own groups and sums, so that a result does not depend on who was faster.
    const int64_t num_groups = tiling.num_groups();
    const int64_t num_workers = std::min(num_threads, num_groups);
    std::vector<std::vector<float>> sums(num_workers);
    const Prologue prepared{optional(scale), optional(shift), relu_};
    const Prologue nothing{nullptr, nullptr, false};
    parallel(context, num_workers, [&](int64_t worker) {
      const int lanes = tiling.lanes;
      const int64_t targets = fixed.dim_size(3);
      PackedInput x(*code_, tiling, shifted.flat<float>().data(), shifted.dim_size(3),
                    swapped ? nothing : prepared);
      const Scratch y(tiling.pixels() * lanes * targets);
      std::vector<const float*> to(tiling.pixels() * lanes);
      sums[worker].assign(pattern->size(), 0.0f);
      const int64_t last = (worker + 1) * num_groups / num_workers;
      for (int64_t group = worker * num_groups / num_workers; group < last; ++group) {
        x.move_to(group);
        tiling.targets(group, 1, fixed.flat<float>().data(), targets, to.data());
        code_->pack(to.data(), tiling.pixels(), targets, swapped ? prepared : nothing, y.get());
        for (int64_t block = 0; block < pattern->layout.num_blocks(); ++block) {
          code_->correlate[tiling.index](x.block(block), x.row_stride(), pattern->offsets.data(),
                                         pattern->begin.data() + block * targets, targets, y.get(),
                                         sums[worker].data());
        }
      }
    });
    for (int64_t j = 0; j < pattern->size(); ++j) {
      float sum = 0;
      for (const auto& of_worker : sums) sum += of_worker[j];
      result[pattern->positions[j]] = sum;
    }
  }

 private:
  bool relu_;
  int64_t upsampling_, pooling_;
};

// Batch statistics and their gradients pass over all pixels, some rows to each worker.
class ChannelOperation : public OpKernel {
 public:
  explicit ChannelOperation(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, choose_code(context, &code_));
  }

 protected:
  // Calls visit(first row, number of rows) for parts of all rows at once.
  template <typename Visitor>
  static void split(OpKernelContext* context, int64_t rows, Visitor visit) {
    const int64_t num_workers =
        std::max<int64_t>(1, std::min<int64_t>(threads(context)->NumThreads(), rows));
    parallel(context, num_workers, [&](int64_t i) {
      const int64_t first = i * rows / num_workers, last = (i + 1) * rows / num_workers;
      visit(first, last - first);
    });
  }

  // Calls summand(first row, number of rows, [2][channels] sums to add to); returns all sums.
  //   Parts are of a fixed number of rows, so that rounding does not depend on that of threads.
  template <typename Float, typename Summand>
  static std::vector<double> sum(OpKernelContext* context, int64_t rows, int64_t channels,
                                 Summand summand) {
    constexpr int64_t kRows = 128;
    const int64_t num_parts = (rows + kRows - 1) / kRows;
    std::vector<Float> parts(num_parts * 2 * channels);
    std::vector<double> sums(2 * channels);
    split(context, num_parts, [&](int64_t first, int64_t count) {
      for (int64_t i = first; i < first + count; ++i) {
        summand(i * kRows, std::min(kRows, rows - i * kRows), &parts[i * 2 * channels]);
      }
    });
    for (size_t j = 0; j < parts.size(); ++j) sums[j % (2 * channels)] += parts[j];
    return sums;
  }

  const InstructionSet* code_;
};

class ChannelMoments : public ChannelOperation {
 public:
  using ChannelOperation::ChannelOperation;

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    OP_REQUIRES(context, input.dims() >= 1, InvalidArgument("Need [..., C], got a scalar."));
    const int64_t channels = input.dim_size(input.dims() - 1);
    const int64_t rows = channels ? input.NumElements() / channels : 0;
    Tensor *mean, *variance;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({channels}), &mean));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({channels}), &variance));
    const float* const x = input.flat<float>().data();
    const auto sums = sum<double>(context, rows, channels, [&](int64_t first, int64_t count,
                                                           double* out) {
      code_->moments(x + first * channels, count, channels, out);
    });
    for (int64_t i = 0; i < channels; ++i) {
      const double average = sums[i] / rows;
      const double spread = sums[channels + i] / rows - average * average;
      mean->flat<float>()(i) = static_cast<float>(average);
      variance->flat<float>()(i) = static_cast<float>(spread < 0 ? 0 : spread);
    }
  }
};

class NormalizationGradient : public ChannelOperation {
 public:
  explicit NormalizationGradient(OpKernelConstruction* context) : ChannelOperation(context) {
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
    OP_REQUIRES_OK(context, context->GetAttr("of_batch", &of_batch_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &input = context->input(0), &gradient = context->input(1);
    OP_REQUIRES(context, input.dims() >= 1 && input.shape() == gradient.shape(),
                InvalidArgument("Input ", input.shape().DebugString(), " and gradient ",
                                gradient.shape().DebugString(), " must have one shape [..., C]."));
    const int64_t channels = input.dim_size(input.dims() - 1);
    const int64_t rows = channels ? input.NumElements() / channels : 0;
    for (int i = 2; i < 6; ++i) {
      OP_REQUIRES(context, context->input(i).NumElements() == channels,
                  InvalidArgument("Statistics and parameters must have ", channels, " numbers."));
    }
    Tensor *of_input, *of_gamma, *of_beta;
    OP_REQUIRES_OK(context, context->allocate_output(0, input.shape(), &of_input));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({channels}), &of_gamma));
    OP_REQUIRES_OK(context, context->allocate_output(2, TensorShape({channels}), &of_beta));
    const float* const x = input.flat<float>().data();
    const float* const g = gradient.flat<float>().data();
    const Normalization of{optional(context->input(2)), optional(context->input(3)),
                           optional(context->input(4)), optional(context->input(5)), relu_};
    const auto sums = sum<float>(context, rows, channels, [&](int64_t first, int64_t count,
                                                          float* out) {
      code_->normalization_sums(x + first * channels, g + first * channels, count, channels, of,
                                out);
    });
    std::vector<float> means(2 * channels, 0.0f);
    for (int64_t i = 0; i < channels; ++i) {
      of_beta->flat<float>()(i) = static_cast<float>(sums[i]);
      of_gamma->flat<float>()(i) = static_cast<float>(sums[channels + i]);
      if (of_batch_ && rows) {
        means[i] = static_cast<float>(sums[i] / rows);
        means[channels + i] = static_cast<float>(sums[channels + i] / rows);
      }
    }
    float* const result = of_input->flat<float>().data();
    split(context, rows, [&](int64_t first, int64_t count) {
      code_->normalization_gradient(x + first * channels, g + first * channels, count, channels, of,
                                    means.data(), result + first * channels);
    });
  }

 private:
  bool relu_, of_batch_;
};

using tensorflow::shape_inference::InferenceContext;

Status output_shape(InferenceContext* context) {
  tensorflow::shape_inference::ShapeHandle input, kernel;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &input));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &kernel));
  bool transposed;
  int64_t upsampling, pooling;
  std::vector<int64_t> paddings;
  TF_RETURN_IF_ERROR(context->GetAttr("transposed", &transposed));
  TF_RETURN_IF_ERROR(context->GetAttr("upsampling", &upsampling));
  TF_RETURN_IF_ERROR(context->GetAttr("pooling", &pooling));
  TF_RETURN_IF_ERROR(context->GetAttr("paddings", &paddings));
  if (paddings.size() != 4) return InvalidArgument("paddings must have 4 numbers.");
  std::vector<tensorflow::shape_inference::DimensionHandle> sizes = {context->Dim(input, 0)};
  for (int axis = 0; axis < 2; ++axis) {
    const auto size = context->Dim(input, axis + 1), extent = context->Dim(kernel, axis);
    if (!context->ValueKnown(size) || !context->ValueKnown(extent)) {
      sizes.push_back(context->UnknownDim());
      continue;
    }
    const auto [least, most] = std::minmax({paddings[2 * axis], paddings[2 * axis + 1]});
    if (least < 0 || most >= std::max<int64_t>(context->Value(extent), 1)) {
      return InvalidArgument("Each of the paddings must be at least 0 and less than the kernel.");
    }
    const int64_t padding = least + most;
    const int64_t grows = context->Value(extent) - 1 - padding;
    const int64_t result = context->Value(size) * upsampling + (transposed ? grows : -grows);
    if (result < 0) return InvalidArgument("The images are too small for the kernel.");
    sizes.push_back(context->MakeDim(result / pooling));
  }
  sizes.push_back(context->Dim(kernel, transposed ? 2 : 3));
  context->set_output(0, context->MakeShape(sizes));
  return tensorflow::OkStatus();
}

Status mask_shape(InferenceContext* context) {
  context->set_output(0, context->input(2));
  return tensorflow::OkStatus();
}

Status moments_shape(InferenceContext* context) {
  tensorflow::shape_inference::ShapeHandle input;
  TF_RETURN_IF_ERROR(context->WithRankAtLeast(context->input(0), 1, &input));
  for (int i = 0; i < 2; ++i) context->set_output(i, context->Vector(context->Dim(input, -1)));
  return tensorflow::OkStatus();
}

Status normalization_gradient_shape(InferenceContext* context) {
  context->set_output(0, context->input(0));
  for (int i = 1; i < 3; ++i) context->set_output(i, context->input(4));
  return tensorflow::OkStatus();
}

}  // namespace

// Vectors and the residual may be empty, which stands for their absence.
REGISTER_OP("StuganSparseConvolution")
    .Input("input: float")
    .Input("kernel: float")
    .Input("scale: float")
    .Input("shift: float")
    .Input("bias: float")
    .Input("residual: float")
    .Output("output: float")
    .Attr("paddings: list(int)")
    .Attr("transposed: bool = false")
    .Attr("relu: bool = false")
    .Attr("upsampling: int >= 1 = 1")
    .Attr("pooling: int >= 1 = 1")
    .Attr("residual_upsampling: int >= 1 = 1")
    .Attr("instruction_set: string = 'best'")
    .SetShapeFn(output_shape);

REGISTER_OP("StuganSparseConvolutionKernelGradient")
    .Input("input: float")
    .Input("gradient: float")
    .Input("mask: float")
    .Input("scale: float")
    .Input("shift: float")
    .Output("kernel_gradient: float")
    .Attr("paddings: list(int)")
    .Attr("relu: bool = false")
    .Attr("upsampling: int >= 1 = 1")
    .Attr("pooling: int >= 1 = 1")
    .Attr("instruction_set: string = 'best'")
    .SetShapeFn(mask_shape);

REGISTER_OP("StuganChannelMoments")
    .Input("input: float")
    .Output("mean: float")
    .Output("variance: float")
    .Attr("instruction_set: string = 'best'")
    .SetShapeFn(moments_shape);

REGISTER_OP("StuganNormalizationGradient")
    .Input("input: float")
    .Input("gradient: float")
    .Input("mean: float")
    .Input("inverse_deviation: float")
    .Input("gamma: float")
    .Input("beta: float")
    .Output("input_gradient: float")
    .Output("gamma_gradient: float")
    .Output("beta_gradient: float")
    .Attr("relu: bool = false")
    .Attr("of_batch: bool = true")
    .Attr("instruction_set: string = 'best'")
    .SetShapeFn(normalization_gradient_shape);

#define REGISTER(Operation)                                                                   \
  REGISTER_KERNEL_BUILDER(Name("Stugan" #Operation).Device(tensorflow::DEVICE_CPU), Operation)
REGISTER(SparseConvolution);
REGISTER(SparseConvolutionKernelGradient);
REGISTER(ChannelMoments);
REGISTER(NormalizationGradient);

}  // namespace stugan
