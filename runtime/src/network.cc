#include "network.h"

#include <algorithm>
#include <utility>

#include "planning.h"

namespace stugan {

Status Network::open(const SparseFile& file, int num_threads) {
  Graph graph;
  STUGAN_RETURN_IF_ERROR(graph.read(file));
  latent_size_ = graph.nodes[graph.latents].size();
  image_size_ = graph.nodes[graph.output].size();
  for (const auto& [name, weight] : file.weights()) {
    num_weights_ += weight.size();
    weight.visit([this](int64_t, float) { ++num_nonzero_; });
  }
  Plan plan;
  STUGAN_RETURN_IF_ERROR(make_plan(std::move(graph), code_, num_threads, &plan));
  steps_ = std::move(plan.steps);
  arena_size_ = plan.arena_size;
  max_images_ = plan.max_images;
  scratch_.resize(num_threads);
  arenas_.resize(num_threads);
  if (!pool_.start(num_threads)) {
    return {STUGAN_OUT_OF_MEMORY,
            "Threads could not be started: " + std::to_string(num_threads) + " were asked for."};
  }
  return {};
}

Needs Network::needs(int64_t num_images) const {
  Needs most;
  for (const auto& step : steps_) {
    const Needs needs = step->needs(num_images);
    most.floats = std::max(most.floats, needs.floats);
    most.pointers = std::max(most.pointers, needs.pointers);
  }
  return most;
}

int64_t Network::weight_bytes() const {
  int64_t total = 0;
  for (const auto& step : steps_) total += step->weight_bytes();
  return total;
}

int64_t Network::num_products() const {
  int64_t total = 0;
  for (const auto& step : steps_) total += step->num_products();
  return total;
}

int64_t Network::workspace_bytes() const {
  const Needs needs = this->needs(max_images_);
  return num_threads() * (4 * (arena_size_ * max_images_ + needs.floats) +
                          static_cast<int64_t>(sizeof(float*)) * needs.pointers);
}

Status Network::prepare(int64_t num_images, int num_arenas) {
  const Needs needs = this->needs(num_images);
  for (Scratch& scratch : scratch_) {
    STUGAN_RETURN_IF_ERROR(scratch.floats.reserve(needs.floats));
    STUGAN_RETURN_IF_ERROR(scratch.pointers.reserve(needs.pointers));
  }
  for (int i = 0; i < num_arenas; ++i) {
    STUGAN_RETURN_IF_ERROR(arenas_[i].reserve(arena_size_ * num_images));
  }
  return {};
}

Status Network::generate(int64_t num_images, const float* latents, const int32_t* labels,
                         float* images) {
  const int64_t threads = num_threads();
  const int64_t share = std::clamp<int64_t>((num_images + threads - 1) / threads, 1, max_images_);
  // Either each thread makes its own images, or all of them make the same few together.
  const bool together = (num_images + share - 1) / share < threads;
  const int64_t size = together ? std::min(num_images, max_images_) : share;
  const int64_t num_runs = (num_images + size - 1) / size;
  STUGAN_RETURN_IF_ERROR(prepare(size, together ? 1 : static_cast<int>(threads)));
  const auto make = [&](int64_t i, int thread, Pool* pool) {
    const int64_t first = i * size;
    Run run(std::min(size, num_images - first), arenas_[thread].data(), &scratch_[thread], pool);
    run.latents = latents + first * latent_size_;
    run.labels = labels ? labels + first : nullptr;
    run.images = images + first * image_size_;
    for (const auto& step : steps_) step->run(run);
  };
  if (together) {
    for (int64_t i = 0; i < num_runs; ++i) make(i, 0, &pool_);
  } else {
    pool_.parallel(num_runs, [&](int64_t i, int thread) { make(i, thread, nullptr); });
  }
  return {};
}

}  // namespace stugan
