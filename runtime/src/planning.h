// From the layers of a graph to the steps of a network.

#ifndef STUGAN_RUNTIME_PLANNING_H_
#define STUGAN_RUNTIME_PLANNING_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "graph.h"
#include "machine_code.h"
#include "steps.h"

namespace stugan {

struct Plan {
  std::vector<std::unique_ptr<Step>> steps;
  int64_t arena_size = 0;  // Floats for each image.
  int64_t max_images = 1;  // Of a run: as many as the caches hold.
};

// Plans the steps of a graph. Layers are done in passing where a neighbour can: scales, ReLU and
// upsampling before a layer with a kernel, additions and activations after it.
Status make_plan(Graph graph, const MachineCode& code, int num_threads, Plan* plan);

}  // namespace stugan

#endif  // STUGAN_RUNTIME_PLANNING_H_
