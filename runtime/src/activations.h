// Activations of layers, on rows of channels.

#ifndef STUGAN_RUNTIME_ACTIVATIONS_H_
#define STUGAN_RUNTIME_ACTIVATIONS_H_

#include <cstdint>

#include "graph.h"
#include "loops.h"

namespace stugan {

// Replaces x [num_rows][channels] by its activation.
void activate(const Loops& code, const Activation& activation, float* x, int64_t num_rows,
              int64_t channels);

}  // namespace stugan

#endif  // STUGAN_RUNTIME_ACTIVATIONS_H_
