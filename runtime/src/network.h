// A generator that is ready to make images: its steps in order, and where each keeps its numbers.

#ifndef STUGAN_RUNTIME_NETWORK_H_
#define STUGAN_RUNTIME_NETWORK_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "file.h"
#include "graph.h"
#include "machine_code.h"
#include "memory.h"
#include "status.h"
#include "steps.h"
#include "threads.h"

namespace stugan {

class Network {
 public:
  // Reads the model of a file, which is not needed afterwards.
  //   precision: of sparse convolutions, one of `stugan_precision`.
  Status open(const SparseFile& file, int num_threads, int precision);

  // Makes images.
  //   latents: [num_images][latent_dim]; labels: [num_images] or null, all of them classes.
  //   images: receives [num_images][height][width][channels].
  Status generate(int64_t num_images, const float* latents, const int32_t* labels, float* images);

  int num_threads() const { return pool_.size(); }
  const char* instruction_set() const { return code_.name; }
  bool is_half() const { return code_.halves != nullptr; }
  int64_t num_weights() const { return num_weights_; }
  int64_t num_nonzero() const { return num_nonzero_; }
  int64_t weight_bytes() const;

  // Multiplications by weights for an image.
  int64_t num_products() const;

  // The most memory that images in the making take.
  int64_t workspace_bytes() const;

 private:
  // What each thread needs for runs of so many images.
  Needs needs(int64_t num_images) const;
  Status prepare(int64_t num_images, int num_arenas);

  // Chooses the code, and with it the precision.
  Status choose(const SparseFile& file, int precision);

  MachineCode code_ = machine_code(false);
  std::vector<std::unique_ptr<Step>> steps_;
  int64_t latent_size_ = 0, image_size_ = 0;
  int64_t arena_size_ = 0;  // Floats for each image.
  int64_t max_images_ = 1;  // Of a run.
  int64_t num_weights_ = 0, num_nonzero_ = 0;
  std::vector<Array<float>> arenas_;
  std::vector<Scratch> scratch_;
  Pool pool_;
};

}  // namespace stugan

#endif  // STUGAN_RUNTIME_NETWORK_H_
