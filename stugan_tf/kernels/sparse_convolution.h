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
constexpr int kMaxLanes = 16;

// The code of one instruction set. `tile` is an index into `tiles`, the larger one first.
struct InstructionSet {
  const char* name;
  int lanes;
  Tile tiles[kNumTiles];

  // Transposes pixels of NHWC images into a packed tile.
  //   sources: [num_pixels][lanes], each the first of `channels` floats or null, read as zeros.
  //   packed: [channels][num_pixels][lanes].
  void (*pack)(const float* const* sources, int64_t num_pixels, int64_t channels, float* packed);

  // Transposes a packed tile back into pixels of NHWC images.
  //   packed: [channels][num_pixels][lanes].
  //   targets: [num_pixels][lanes], each where `channels` floats go, or null, which is skipped.
  void (*unpack)(const float* packed, int64_t num_pixels, int64_t channels, float* const* targets);

  // Adds to each output channel its non-zero weights times shifted input tiles.
  //   x: packed input of a block of channels.
  //   row_stride: floats between two rows of the input tile.
  //   offsets, values: of the non-zeros: where in x the shifted tile begins, and the weight.
  //   begin: [num_outputs + 1], where the non-zeros of each output channel begin.
  //   y: packed output [num_outputs][tile][lanes]; overwritten if `first`, else added to.
  void (*convolve[kNumTiles])(const float* x, int64_t row_stride, const int32_t* offsets,
                              const float* values, const int32_t* begin, int64_t num_outputs,
                              bool first, float* y);

  // Adds to the gradient of each non-zero weight the product of its input and output tiles.
  //   y: packed gradient of the output [num_outputs][tile][lanes].
  //   sums: [number of non-zeros]; the rest as above.
  void (*correlate[kNumTiles])(const float* x, int64_t row_stride, const int32_t* offsets,
                               const int32_t* begin, int64_t num_outputs, const float* y,
                               float* sums);
};

// One for each way in which tiles.cc is compiled.
extern const InstructionSet kBaseline;
#ifdef STUGAN_X86_64
extern const InstructionSet kX86V3;  // AVX2 and FMA
extern const InstructionSet kX86V4;  // AVX-512
#endif

}  // namespace stugan

#endif  // STUGAN_TF_KERNELS_SPARSE_CONVOLUTION_H_
