// What the instruction-set specific code of the runtime (loops.cc) offers, next to that which it
// shares with the TensorFlow operation (stugan_tf/kernels/tiles.cc).

#ifndef STUGAN_RUNTIME_LOOPS_H_
#define STUGAN_RUNTIME_LOOPS_H_

#include <stdint.h>

namespace stugan {

constexpr int kMaxRows = 12;  // Of a dense product at once.

// The code of one instruction set. Numbers never depend on where an array is cut: all elements are
// computed by the same operations, in the same order.
struct Loops {
  int lanes;
  int rows;   // The most rows of a dense product at once.
  int panel;  // Its columns.

  // A panel of a dense product: targets[r] = sum of rows[.][r] * panel, + bias, + addends[r].
  //   rows: [num_taps][num_rows], each the first of `channels` floats.
  //   matrix: [num_taps * channels][panel].
  //   bias: [num_columns] or null.
  //   addends: [num_rows], each `num_columns` floats; or null.
  //   targets: [num_rows], each where `num_columns` floats go.
  void (*multiply)(const float* const* rows, int num_rows, int64_t num_taps, int64_t channels,
                   const float* matrix, const float* bias, const float* const* addends,
                   int num_columns, float* const* targets);

  // For each output the sum of its non-zero weights times packed inputs.
  //   x: [inputs][lanes]; offsets, values: of the non-zeros: where in x, and the weight.
  //   begin: [num_outputs + 1]; y: [num_outputs][lanes], overwritten.
  void (*gather)(const float* x, const int32_t* offsets, const float* values, const int32_t* begin,
                 int64_t num_outputs, float* y);

  // y = x * scale + shift of each row of `channels` numbers, and a ReLU after it if asked.
  //   scale, shift: [channels] or null.
  void (*affine)(const float* x, int64_t num_rows, int64_t channels, const float* scale,
                 const float* shift, bool relu, float* y);

  // y = x + other, and y = x * other.
  void (*add)(const float* x, const float* other, int64_t size, float* y);
  void (*times)(const float* x, const float* other, int64_t size, float* y);

  // In place. `rectify` is max(x, 0).
  void (*rectify)(float* x, int64_t size);
  void (*tanh)(float* x, int64_t size);
  void (*sigmoid)(float* x, int64_t size);

  // Turns each row into numbers above 0 whose sum is 1.
  void (*softmax)(float* x, int64_t num_rows, int64_t size);
};

// One for each way in which loops.cc is compiled.
extern const Loops kBaselineLoops;
#ifdef STUGAN_X86_64
extern const Loops kX86V3Loops;
extern const Loops kX86V4Loops;
#endif

}  // namespace stugan

#endif  // STUGAN_RUNTIME_LOOPS_H_
