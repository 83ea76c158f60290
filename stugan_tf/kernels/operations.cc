// The TensorFlow operations: shapes, checks, and the division of labour among threads.
//
// SparseConvolution computes a stride 1 convolution on the non-zeros of its kernel. With the kernel
// transposed it is its own gradient with respect to the input. SparseConvolutionKernelGradient
// computes the gradient with respect to the kernel where a mask is not zero.
//
// Both are pure functions of dense tensors. No indices come in, so none can be wrong; a kernel that
// is not sparse at all is only slow.

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "pattern.h"
#include "sparse_convolution.h"
#include "tensorflow/core/framework/common_shape_fns.h"
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

const InstructionSet& instruction_set(const std::string& name) {
#ifdef STUGAN_X86_64
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512cd");
  if (v4 && (name == "best" || name == "x86-64-v4")) return kX86V4;
  if (v3 && name != "baseline") return kX86V3;
#endif
  return kBaseline;
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

// The pixels of a batch of images, cut into tiles. A 1x1 kernel sees no neighbours, so that all
// pixels of the batch are one image of four columns there, of which any tile is filled.
struct Geometry {
  int64_t batch, height, width;  // Of the output.
  int64_t input_height, input_width;
  int64_t kernel_height, kernel_width;
  int64_t pad_top, pad_left;
  int64_t num_pixels;  // Those of the output that are there.

  static Geometry make(int64_t batch, int64_t input_height, int64_t input_width, int64_t height,
                       int64_t width, int64_t kernel_height, int64_t kernel_width, int64_t pad_top,
                       int64_t pad_left) {
    const int64_t num_pixels = batch * height * width;
    if (kernel_height == 1 && kernel_width == 1) {
      const int64_t rows = (num_pixels + 3) / 4;
      return {1, rows, 4, rows, 4, 1, 1, 0, 0, num_pixels};
    }
    return {batch,         height,       width,   input_height, input_width,
            kernel_height, kernel_width, pad_top, pad_left,     num_pixels};
  }

  int64_t input_pixels() const {
    return kernel_height * kernel_width == 1 ? num_pixels : batch * input_height * input_width;
  }
};

// How the tiles of one shape cover a geometry.
struct Tiling {
  Geometry geometry;
  Tile tile;
  int index;
  int lanes;

  int64_t rows() const { return (geometry.height + tile.height - 1) / tile.height; }
  int64_t columns() const { return (geometry.width + tile.width - 1) / tile.width; }
  int64_t num_tiles() const { return geometry.batch * rows() * columns(); }
  int64_t num_groups() const { return (num_tiles() + lanes - 1) / lanes; }
  int64_t pixels() const { return tile.height * tile.width; }
  int64_t input_width() const { return tile.width + geometry.kernel_width - 1; }
  int64_t input_height() const { return tile.height + geometry.kernel_height - 1; }
  int64_t input_pixels() const { return input_height() * input_width(); }

  // Input channels whose packed tiles stay in the first-level cache.
  int64_t block() const {
    constexpr int64_t kBytes = 40 << 10;  // Measured; a little over the cache of most is best.
    return std::max<int64_t>(1, kBytes / (input_pixels() * lanes * 4));
  }

  // Cycles, roughly: of packing, multiplying and unpacking, given what is busy in parallel.
  double cost(int64_t sources, int64_t targets, int64_t non_zeros, int64_t num_threads) const {
    const double blocks = static_cast<double>(sources + block() - 1) / block();
    const double group = 6.0 * (input_pixels() * sources + pixels() * targets) +
                         non_zeros * (pixels() + 3.0) + blocks * targets * (2 * pixels() + 15.0);
    const int64_t groups = num_groups();
    return group * (groups < num_threads ? 1.0 : static_cast<double>(groups) / num_threads);
  }

  // Fills [input_pixels][lanes] with where each pixel of a group's input tiles begins, or null.
  void sources(int64_t group, const float* images, int64_t channels, const float** result) const {
    visit(group, input_height(), input_width(), [&](int64_t i, int64_t n, int64_t y, int64_t x) {
      y -= geometry.pad_top;
      x -= geometry.pad_left;
      const bool inside = n >= 0 && y >= 0 && x >= 0 && y < geometry.input_height &&
                          x < geometry.input_width;
      const int64_t pixel = (n * geometry.input_height + y) * geometry.input_width + x;
      result[i] =
          inside && pixel < geometry.input_pixels() ? images + pixel * channels : nullptr;
    });
  }

  // Fills [pixels][lanes] with where each pixel of a group's output tiles begins, or null.
  template <typename Float>
  void targets(int64_t group, Float* images, int64_t channels, Float** result) const {
    visit(group, tile.height, tile.width, [&](int64_t i, int64_t n, int64_t y, int64_t x) {
      const bool inside = n >= 0 && y < geometry.height && x < geometry.width;
      const int64_t pixel = (n * geometry.height + y) * geometry.width + x;
      result[i] = inside && pixel < geometry.num_pixels ? images + pixel * channels : nullptr;
    });
  }

 private:
  template <typename Visitor>
  void visit(int64_t group, int64_t height, int64_t width, Visitor visitor) const {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t t = group * lanes + lane;
      const int64_t n = t < num_tiles() ? t / (rows() * columns()) : -1;
      const int64_t top = t / columns() % rows() * tile.height;
      const int64_t left = t % columns() * tile.width;
      for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) {
          visitor((y * width + x) * lanes + lane, n, top + y, left + x);
        }
      }
    }
  }
};

class SparseOperation : public OpKernel {
 public:
  explicit SparseOperation(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("paddings", &paddings_));
    OP_REQUIRES(context, paddings_.size() == 4,
                InvalidArgument("paddings must be [top, bottom, left, right], got ",
                                paddings_.size(), " numbers."));
    std::string name;
    OP_REQUIRES_OK(context, context->GetAttr("instruction_set", &name));
    code_ = &instruction_set(name);
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

  Tiling tiling(const Geometry& geometry, int64_t sources, int64_t targets, int64_t non_zeros,
                int64_t num_threads) const {
    Tiling best;
    double lowest = 0;
    for (int i = 0; i < kNumTiles; ++i) {
      const Tiling tiling{geometry, code_->tiles[i], i, code_->lanes};
      const double cost = tiling.cost(sources, targets, non_zeros, num_threads);
      if (i == 0 || cost < lowest) {
        best = tiling;
        lowest = cost;
      }
    }
    return best;
  }

  static Layout layout(const Tiling& tiling, const TensorShape& kernel, bool transposed) {
    return {kernel.dim_size(0),   kernel.dim_size(1), kernel.dim_size(2),
            kernel.dim_size(3),   transposed,         tiling.block(),
            tiling.input_width(), tiling.input_pixels(), tiling.lanes};
  }

  static tensorflow::thread::ThreadPool* threads(OpKernelContext* context) {
    return context->device()->tensorflow_cpu_worker_threads()->workers;
  }

  // Calls worker(0), ..., worker(num_workers - 1), at once where threads are free.
  template <typename Worker>
  static void parallel(OpKernelContext* context, int64_t num_workers, Worker worker) {
    if (num_workers == 1) return worker(0);
    using Pool = tensorflow::thread::ThreadPool;
    const auto one_each = Pool::SchedulingParams::Fixed(1);
    threads(context)->ParallelFor(num_workers, one_each, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) worker(i);
    });
  }

  const InstructionSet* code_;
  std::vector<int64_t> paddings_;
  PatternCache patterns_;
};

class SparseConvolution : public SparseOperation {
 public:
  explicit SparseConvolution(OpKernelConstruction* context) : SparseOperation(context) {
    OP_REQUIRES_OK(context, context->GetAttr("transposed", &transposed_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    const Tensor& kernel = context->input(1);
    OP_REQUIRES_OK(context, check(input.shape(), kernel.shape()));
    const int64_t kernel_height = kernel.dim_size(0), kernel_width = kernel.dim_size(1);
    const int64_t sources = kernel.dim_size(transposed_ ? 3 : 2);
    const int64_t targets = kernel.dim_size(transposed_ ? 2 : 3);
    OP_REQUIRES(context, input.dim_size(3) == sources,
                InvalidArgument("The images have ", input.dim_size(3), " channels, the kernel ",
                                kernel.shape().DebugString(), " takes ", sources, "."));
    int64_t pads[4];
    for (int i = 0; i < 4; ++i) {
      pads[i] = transposed_ ? kernel.dim_size(i / 2) - 1 - paddings_[i] : paddings_[i];
    }
    const int64_t height = input.dim_size(1) + pads[0] + pads[1] - kernel_height + 1;
    const int64_t width = input.dim_size(2) + pads[2] + pads[3] - kernel_width + 1;
    OP_REQUIRES(context, kernel_height > 0 && kernel_width > 0 && height >= 0 && width >= 0,
                InvalidArgument("Images ", input.shape().DebugString(), " are too small for the ",
                                "kernel ", kernel.shape().DebugString(), "."));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, TensorShape({input.dim_size(0), height, width, targets}),
                                &output));
    if (output->NumElements() == 0) return;

    const Geometry geometry =
        Geometry::make(input.dim_size(0), input.dim_size(1), input.dim_size(2), height, width,
                       kernel_height, kernel_width, pads[0], pads[2]);
    const int64_t num_threads = threads(context)->NumThreads();
    // The density is not known before the pattern, which depends on the tiling: guess it low, where
    // the choice matters.
    const Tiling tiling =
        this->tiling(geometry, sources, targets, kernel.NumElements() / 10, num_threads);
    std::vector<float> values;
    const auto pattern = patterns_.find(layout(tiling, kernel.shape(), transposed_),
                                        kernel.flat<float>().data(), &values);

    // Where there are few groups, threads share one and each packs its input for itself.
    const int64_t num_groups = tiling.num_groups();
    const int64_t num_parts =
        std::min(targets, std::max<int64_t>(1, num_threads / std::max<int64_t>(1, num_groups)));
    const int64_t num_units = num_groups * num_parts;
    const int64_t num_workers = std::min(num_threads, num_units);
    const int64_t part_size = (targets + num_parts - 1) / num_parts;
    const float* const images = input.flat<float>().data();
    float* const results = output->flat<float>().data();
    std::atomic<int64_t> next_unit{0};
    parallel(context, num_workers, [&](int64_t) {
      const int lanes = tiling.lanes;
      const Scratch x(tiling.input_pixels() * lanes * sources);
      const Scratch y(tiling.pixels() * lanes * part_size);
      std::vector<const float*> from(tiling.input_pixels() * lanes);
      std::vector<float*> to(tiling.pixels() * lanes);
      for (int64_t unit; (unit = next_unit++) < num_units;) {
        const int64_t group = unit / num_parts, first = unit % num_parts * part_size;
        const int64_t num_targets = std::min(part_size, targets - first);
        if (num_targets <= 0) continue;
        tiling.sources(group, images, sources, from.data());
        code_->pack(from.data(), tiling.input_pixels(), sources, x.get());
        for (int64_t block = 0; block < pattern->layout.num_blocks(); ++block) {
          code_->convolve[tiling.index](
              x.get() + block * tiling.block() * tiling.input_pixels() * lanes,
              tiling.input_width() * lanes, pattern->offsets.data(), values.data(),
              pattern->begin.data() + block * targets + first, num_targets, block == 0, y.get());
        }
        if (sources == 0) std::fill_n(y.get(), tiling.pixels() * lanes * num_targets, 0.0f);
        tiling.targets(group, results + first, targets, to.data());
        code_->unpack(y.get(), tiling.pixels(), num_targets, to.data());
      }
    });
  }

 private:
  bool transposed_;
};

class SparseConvolutionKernelGradient : public SparseOperation {
 public:
  using SparseOperation::SparseOperation;

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    const Tensor& gradient = context->input(1);
    const Tensor& mask = context->input(2);
    OP_REQUIRES_OK(context, check(input.shape(), mask.shape()));
    const int64_t sources = mask.dim_size(2), targets = mask.dim_size(3);
    const int64_t height = input.dim_size(1) + paddings_[0] + paddings_[1] - mask.dim_size(0) + 1;
    const int64_t width = input.dim_size(2) + paddings_[2] + paddings_[3] - mask.dim_size(1) + 1;
    const TensorShape expected({input.dim_size(0), std::max<int64_t>(height, 0),
                                std::max<int64_t>(width, 0), targets});
    OP_REQUIRES(context, input.dim_size(3) == sources && gradient.shape() == expected,
                InvalidArgument("Images ", input.shape().DebugString(), ", the gradient ",
                                gradient.shape().DebugString(), " and the mask ",
                                mask.shape().DebugString(), " do not belong together."));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, mask.shape(), &output));
    float* const result = output->flat<float>().data();
    std::fill_n(result, output->NumElements(), 0.0f);
    if (output->NumElements() == 0 || gradient.NumElements() == 0) return;

    const Geometry geometry =
        Geometry::make(input.dim_size(0), input.dim_size(1), input.dim_size(2), height, width,
                       mask.dim_size(0), mask.dim_size(1), paddings_[0], paddings_[2]);
    const int64_t num_threads = threads(context)->NumThreads();
    const Tiling tiling =
        this->tiling(geometry, sources, targets, mask.NumElements() / 10, num_threads);
    std::vector<float> values;
    const auto pattern = patterns_.find(layout(tiling, mask.shape(), false),
                                        mask.flat<float>().data(), &values);

    // Each worker has its own groups and sums, so that a result does not depend on who was faster.
    const int64_t num_groups = tiling.num_groups();
    const int64_t num_workers = std::min(num_threads, num_groups);
    std::vector<std::vector<float>> sums(num_workers);
    const float* const images = input.flat<float>().data();
    const float* const gradients = gradient.flat<float>().data();
    parallel(context, num_workers, [&](int64_t worker) {
      const int lanes = tiling.lanes;
      const Scratch x(tiling.input_pixels() * lanes * sources);
      const Scratch y(tiling.pixels() * lanes * targets);
      std::vector<const float*> from(tiling.input_pixels() * lanes);
      std::vector<const float*> to(tiling.pixels() * lanes);
      sums[worker].assign(pattern->size(), 0.0f);
      const int64_t last = (worker + 1) * num_groups / num_workers;
      for (int64_t group = worker * num_groups / num_workers; group < last; ++group) {
        tiling.sources(group, images, sources, from.data());
        code_->pack(from.data(), tiling.input_pixels(), sources, x.get());
        tiling.targets(group, gradients, targets, to.data());
        code_->pack(to.data(), tiling.pixels(), targets, y.get());
        for (int64_t block = 0; block < pattern->layout.num_blocks(); ++block) {
          code_->correlate[tiling.index](
              x.get() + block * tiling.block() * tiling.input_pixels() * lanes,
              tiling.input_width() * lanes, pattern->offsets.data(),
              pattern->begin.data() + block * targets, targets, y.get(), sums[worker].data());
        }
      }
    });
    for (int64_t j = 0; j < pattern->size(); ++j) {
      float sum = 0;
      for (const auto& of_worker : sums) sum += of_worker[j];
      result[pattern->positions[j]] = sum;
    }
  }
};

Status output_shape(tensorflow::shape_inference::InferenceContext* context) {
  tensorflow::shape_inference::ShapeHandle input, kernel;
  TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &input));
  TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &kernel));
  bool transposed;
  TF_RETURN_IF_ERROR(context->GetAttr("transposed", &transposed));
  std::vector<int64_t> paddings;
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
    const int64_t result = context->Value(size) + (transposed ? grows : -grows);
    if (result < 0) return InvalidArgument("The images are too small for the kernel.");
    sizes.push_back(context->MakeDim(result));
  }
  sizes.push_back(context->Dim(kernel, transposed ? 2 : 3));
  context->set_output(0, context->MakeShape(sizes));
  return tensorflow::OkStatus();
}

Status mask_shape(tensorflow::shape_inference::InferenceContext* context) {
  context->set_output(0, context->input(2));
  return tensorflow::OkStatus();
}

}  // namespace

REGISTER_OP("StuganSparseConvolution")
    .Input("input: float")
    .Input("kernel: float")
    .Output("output: float")
    .Attr("paddings: list(int)")
    .Attr("transposed: bool = false")
    .Attr("instruction_set: string = 'best'")
    .SetShapeFn(output_shape);

REGISTER_OP("StuganSparseConvolutionKernelGradient")
    .Input("input: float")
    .Input("gradient: float")
    .Input("mask: float")
    .Output("kernel_gradient: float")
    .Attr("paddings: list(int)")
    .Attr("instruction_set: string = 'best'")
    .SetShapeFn(mask_shape);

REGISTER_KERNEL_BUILDER(Name("StuganSparseConvolution").Device(tensorflow::DEVICE_CPU),
                        SparseConvolution);
REGISTER_KERNEL_BUILDER(
    Name("StuganSparseConvolutionKernelGradient").Device(tensorflow::DEVICE_CPU),
    SparseConvolutionKernelGradient);

}  // namespace stugan
