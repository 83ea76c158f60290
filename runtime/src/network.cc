#include "network.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "planning.h"

namespace stugan {
namespace {

constexpr double kLargestHalf = 65504;
// How far from it outputs of layers must stay. Their greatest magnitude is of a few images, and of
// whole sums, not of parts of them.
constexpr double kMargin = 16;

// Says why a file's generator cannot be computed in half precision; says nothing if it can.
//   margin: the outputs of layers must be less than the largest number by this factor.
std::string reason_against_halves(const SparseFile& file, double margin) {
  const auto told = [](const char* what, double greatest, double allowed) {
    char text[100];
    std::snprintf(text, sizeof(text), "%s reach %.6g, allowed are %.6g.", what, greatest, allowed);
    return std::string(text);
  };
  for (const auto& [name, weight] : file.weights()) {
    double greatest = 0;
    weight.visit([&](int64_t, float x) { greatest = std::max<double>(greatest, std::fabs(x)); });
    if (greatest > kLargestHalf) return told("Weights", greatest, kLargestHalf);
  }
  const double allowed = kLargestHalf / margin;
  if (file.greatest_output() > allowed) {
    return told("Outputs of layers", file.greatest_output(), allowed);
  }
  return "";
}

}  // namespace

Status Network::choose(const SparseFile& file, int precision) {
  code_ = machine_code(false);
  if (precision == STUGAN_FLOAT32) return {};
  const MachineCode half = machine_code(true);
  const bool is_auto = precision == STUGAN_AUTO;
  if (is_auto && (!half.halves || !file.has_greatest_output())) return {};
  if (!half.halves) {
    return unsupported(
        "Half precision cannot be had here: it needs a processor with AVX512-FP16 or the FP16 of "
        "ARMv8.2, and a library whose compiler knew it. Choose float32.");
  }
  const std::string reason = reason_against_halves(file, is_auto ? kMargin : 1);
  if (reason.empty()) {
    code_ = half;
  } else if (!is_auto) {
    return unsupported("This generator overflows in half precision: " + reason +
                       " Choose float32.");
  }
  return {};
}

Status Network::open(const SparseFile& file, int num_threads, int precision) {
  STUGAN_RETURN_IF_ERROR(choose(file, precision));
  Graph graph;
  STUGAN_RETURN_IF_ERROR(graph.read(file));
  latent_size_ = graph.nodes[graph.latents].size();
  image_size_ = graph.nodes[graph.output].size();
  for (const auto& [name, weight] : file.weights()) {
    num_weights_ += weight.size();
    num_nonzero_ += weight.num_nonzero();
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
