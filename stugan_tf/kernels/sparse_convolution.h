// What the instruction-set specific code (tiles.cc) offers to the operations (operations.cc).
//
// A convolution is worked off in groups of `lanes` tiles. A tile is a small rectangle of output
// pixels, anywhere in any image of the batch; lane l of every vector belongs to tile l of the
// group. So a non-zero weight is one scalar times whole vectors, whatever the batch, and no
// boundary needs a special case: what lies outside the image is packed as zero.
//
// Packed activations are float [channel][pixel of the tile][lane], 64-byte aligned.

#ifndef STUGAN_TF_KERNELS_SPARSE_CONVOLUTION_H_
#define STUGAN_TF_KERNELS_SPARSE_CONVOLUTION_H_

#include <stdint.h>

namespace stugan {

struct Tile {
  int height;
  int width;
};

constexpr int kNumTiles = 2;

// max(scale * x + shift, 0) of each channel, each part of it only if there.
template <typename Number>
struct PrologueOf {
  const Number* scale;  // [channels] or null, as is `shift`.
  const Number* shift;
  bool relu;
  // In place of these, those of the image of each pixel: as its sources, [num_pixels][lanes], each
  // the first of `channels` numbers. Not read where there is no source.
  const Number* const* scales = nullptr;
  const Number* const* shifts = nullptr;
};

using Prologue = PrologueOf<float>;

// y = gamma * (x - mean) * inverse_deviation + beta of each channel, and a ReLU after it if asked.
struct Normalization {
  const float* mean;
  const float* inverse_deviation;
  const float* gamma;
  const float* beta;
  bool relu;
};

// The code of one instruction set. `tile` is an index into `tiles`, the larger one first.
struct InstructionSet {
  int lanes;
  Tile tiles[kNumTiles];

  // Transposes pixels of NHWC images into a packed tile.
  //   sources: [num_pixels][lanes], each the first of `channels` floats or null, read as zeros.
  //   before: what is done to each value that is read.
  //   packed: [channels][num_pixels][lanes].
  void (*pack)(const float* const* sources, int64_t num_pixels, int64_t channels,
               const Prologue& before, float* packed);

  // Transposes a packed tile back into pixels of NHWC images.
  //   packed: [channels][num_pixels][lanes].
  //   bias: [channels] to add, or null.
  //   addends: [num_pixels][lanes], each `channels` floats to add, as targets; or null.
  //   relu: whether it comes after these.
  //   targets: [num_pixels][lanes], each where `channels` floats go, or null, which is skipped.
  void (*unpack)(const float* packed, int64_t num_pixels, int64_t channels, const float* bias,
                 const float* const* addends, bool relu, float* const* targets);

  // Adds to each output channel its non-zero weights times shifted input tiles.
  //   x: packed input of a block of channels.
  //   row_stride: floats between the rows of the input tile for two rows of the output.
  //   offsets, values: of the non-zeros: where in x the shifted tile begins, and the weight.
  //   begin: [num_outputs + 1], where the non-zeros of each output channel begin.
  //   y: packed output [num_outputs][tile][lanes]; overwritten if `first`, else added to.
  void (*convolve[kNumTiles])(const float* x, int64_t row_stride, const int32_t* offsets,
                              const float* values, const int32_t* begin, int64_t num_outputs,
                              bool first, float* y);

  // The same of images that are upsampled by 2 after it. What a tap adds to an output depends on
  // whether it lies an even or odd number of rows (columns) off it: if even, output rows 2 i and
  // 2 i + 1 meet the same row of the small image; if odd, rows 2 i - 1 and 2 i do. So the taps of
  // the same parities are added up on the small tile, with one row (column) more if odd.
  //   x: packed input of a block of channels, before the upsampling; row_stride: of it.
  //   begin: [4 * num_outputs + 1], where the non-zeros of each output channel begin whose taps lie
  //     an even number of rows and of columns off, (even, odd), (odd, even), and (odd, odd).
  //   sums: [num_outputs][h * w + h * (w + 1) + (h + 1) * w + (h + 1) * (w + 1)][lanes], of the tile
  //     [h][w]; overwritten if `first`, else added to.
  void (*convolve_small[kNumTiles])(const float* x, int64_t row_stride, const int32_t* offsets,
                                    const float* values, const int32_t* begin,
                                    int64_t num_outputs, bool first, float* sums);

  // The upsampled tile of these sums.
  //   y: receives [num_outputs][2 h][2 w][lanes].
  void (*upsample[kNumTiles])(const float* sums, int64_t num_outputs, float* y);

#ifndef STUGAN_INFERENCE
  // Sums the 2x2 pixels at each place of packed tiles.
  //   packed: [channels][rows][columns][lanes].
  //   sums: [channels][rows - 1][columns - 1][lanes]; in each row the even columns come first.
  void (*sum_neighbours)(const float* packed, int64_t channels, int64_t rows, int64_t columns,
                         float* sums);

  // Adds to the gradient of each non-zero weight the product of its input and output tiles.
  //   y: packed gradient of the output [num_outputs][tile][lanes].
  //   sums: [number of non-zeros]; the rest as above.
  void (*correlate[kNumTiles])(const float* x, int64_t row_stride, const int32_t* offsets,
                               const int32_t* begin, int64_t num_outputs, const float* y,
                               float* sums);

  // Adds the sum and the sum of squares of each channel of x [rows][channels] to `sums`
  // [2][channels].
  void (*moments)(const float* x, int64_t rows, int64_t channels, double* sums);

  // Adds the gradients of a normalization's beta and gamma to `sums` [2][channels].
  //   x, gradient: [rows][channels], few enough rows for single precision; the gradient of the
  //     output.
  void (*normalization_sums)(const float* x, const float* gradient, int64_t rows, int64_t channels,
                             const Normalization& of, float* sums);

  // The gradient of a normalization's input.
  //   means: [2][channels], of the gradient of beta and gamma over all rows of the batch; zeros if
  //     the statistics were not those of the batch.
  void (*normalization_gradient)(const float* x, const float* gradient, int64_t rows,
                                 int64_t channels, const Normalization& of, const float* means,
                                 float* result);
#endif  // STUGAN_INFERENCE
};

// One for each way in which tiles.cc is compiled.
extern const InstructionSet kBaseline;
#ifdef STUGAN_X86_64
extern const InstructionSet kX86V3;  // AVX2 and FMA
extern const InstructionSet kX86V4;  // AVX-512
#endif

}  // namespace stugan

#endif  // STUGAN_TF_KERNELS_SPARSE_CONVOLUTION_H_
