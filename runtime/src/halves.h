// The inner loops of sparse convolutions in half precision (halves.cc): as those of
// sparse_convolution.h, with IEEE half numbers for activations, weights and sums.
//
// Only halves.cc computes with such numbers. All else moves them.

#ifndef STUGAN_RUNTIME_HALVES_H_
#define STUGAN_RUNTIME_HALVES_H_

#include <stdint.h>

#include "sparse_convolution.h"

namespace stugan {

struct Half {
  uint16_t bits;
};

// A weight, twice: 32 bits can be broadcast to all lanes while they are loaded, 16 bits cannot.
struct TwoHalves {
  Half first, second;
};

// The code of one instruction set. Its arguments are those of `InstructionSet`.
struct Halves {
  int lanes;
  Tile tiles[kNumTiles];

  void (*pack)(const Half* const* sources, int64_t num_pixels, int64_t channels,
               const PrologueOf<Half>& before, Half* packed);
  void (*unpack)(const Half* packed, int64_t num_pixels, int64_t channels, const Half* bias,
                 const Half* const* addends, bool relu, Half* const* targets);
  void (*convolve[kNumTiles])(const Half* x, int64_t row_stride, const int32_t* offsets,
                              const TwoHalves* values, const int32_t* begin, int64_t num_outputs,
                              bool first, Half* y);

  // From one precision to the other. What is too large becomes infinite.
  void (*widen)(const Half* x, int64_t size, float* y);
  void (*narrow)(const float* x, int64_t size, Half* y);
};

// One for each way in which halves.cc is compiled.
#ifdef STUGAN_NATIVE_HALVES
extern const Halves kNativeHalves;  // AVX512-FP16, or FP16 of ARMv8.2.
#endif
#ifdef STUGAN_EMULATED_HALVES
extern const Halves kEmulatedHalves;  // By the compiler: right and slow, for tests.
#endif

}  // namespace stugan

#endif  // STUGAN_RUNTIME_HALVES_H_
