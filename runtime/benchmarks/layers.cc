// Says what each layer of a generator takes, on one thread, and what part of the processor's peak its
// multiplications reach.
//
//     layers generator.safetensors [images of a call] [calls]
//
// Times are those of the processor, the least of all calls, so that it matters little what else the
// machine does.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <time.h>

#include "file.h"
#include "graph.h"
#include "machine_code.h"
#include "memory.h"
#include "planning.h"
#include "steps.h"

namespace stugan {
namespace {

double seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Multiplications and additions a second that need no memory. Ten chains, because each waits for
// itself.
#define STUGAN_PEAK(name, lanes, registers, attribute)                              \
  attribute double name() {                                                         \
    typedef float Vector __attribute__((vector_size(4 * lanes)));                   \
    constexpr int kLength = 200000;                                                 \
    volatile float factor = 0.5f, summand = 1;                                      \
    const Vector a = factor - Vector{}, b = summand - Vector{};                     \
    Vector s0{}, s1{}, s2{}, s3{}, s4{}, s5{}, s6{}, s7{}, s8{}, s9{};              \
    double best = 0;                                                                \
    for (int round = 0; round < 50; ++round) {                                      \
      const double start = seconds();                                               \
      for (int i = 0; i < kLength; ++i) {                                           \
        s0 = s0 * a + b, s1 = s1 * a + b, s2 = s2 * a + b, s3 = s3 * a + b;         \
        s4 = s4 * a + b, s5 = s5 * a + b, s6 = s6 * a + b, s7 = s7 * a + b;         \
        s8 = s8 * a + b, s9 = s9 * a + b;                                           \
        asm volatile("" : "+" registers(s0), "+" registers(s1), "+" registers(s2),  \
                     "+" registers(s3), "+" registers(s4), "+" registers(s5),       \
                     "+" registers(s6), "+" registers(s7), "+" registers(s8),       \
                     "+" registers(s9));                                            \
      }                                                                             \
      best = std::max(best, 2.0 * lanes * 10 * kLength / (seconds() - start));      \
    }                                                                               \
    return best;                                                                    \
  }
#ifdef STUGAN_X86_64
STUGAN_PEAK(peak_of_4_lanes, 4, "x", )
STUGAN_PEAK(peak_of_8_lanes, 8, "x", __attribute__((target("avx2,fma"))))
STUGAN_PEAK(peak_of_16_lanes, 16, "v", __attribute__((target("avx512f"))))
#else
STUGAN_PEAK(peak_of_4_lanes, 4, "w", )
#endif

double peak(int lanes) {
#ifdef STUGAN_X86_64
  if (lanes == 16) return peak_of_16_lanes();
  if (lanes == 8) return peak_of_8_lanes();
#endif
  static_cast<void>(lanes);
  return peak_of_4_lanes();
}

[[noreturn]] void end(const Status& status) {
  std::fprintf(stderr, "%s\n", status.text.c_str());
  std::exit(1);
}

void check(const Status& status) {
  if (!status.ok()) end(status);
}

int measure(const char* path, int64_t num_images, int num_calls) {
  std::ifstream stream(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  SparseFile file;
  check(file.open(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
  Graph graph;
  check(graph.read(file));
  const int64_t latent_dim = file.interface().latent_dim;
  const int64_t image_size = graph.nodes[graph.output].size();
  const MachineCode code = machine_code(false);
  Plan plan;
  check(make_plan(std::move(graph), code, 1, &plan));

  const int64_t most = std::min(num_images, plan.max_images);  // Images of a run.
  Scratch scratch;
  for (const auto& step : plan.steps) {
    const Needs needs = step->needs(most);
    check(scratch.floats.reserve(needs.floats));
    check(scratch.pointers.reserve(needs.pointers));
  }
  Array<float> arena, images, latents;
  check(arena.reserve(plan.arena_size * most));
  check(images.reserve(image_size * num_images));
  check(latents.reserve(latent_dim * num_images));
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < num_images; ++i) {
    labels.push_back(static_cast<int32_t>(i % std::max<int64_t>(1, file.interface().num_classes)));
  }
  uint32_t state = 1;
  for (int64_t i = 0; i < latents.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    latents.data()[i] = static_cast<float>(state >> 8) / (1 << 23) - 1;
  }

  std::vector<double> best(plan.steps.size(), std::numeric_limits<double>::infinity());
  double best_whole = best[0];
  for (int call = 0; call < num_calls; ++call) {
    std::vector<double> taken(plan.steps.size());
    const double start = seconds();
    for (int64_t first = 0; first < num_images; first += most) {
      Run run(std::min(most, num_images - first), arena.data(), &scratch, nullptr);
      run.latents = latents.data() + first * latent_dim;
      run.labels = labels.data() + first;
      run.images = images.data() + first * image_size;
      for (size_t i = 0; i < plan.steps.size(); ++i) {
        const double begin = seconds();
        plan.steps[i]->run(run);
        taken[i] += seconds() - begin;
      }
    }
    best_whole = std::min(best_whole, seconds() - start);
    for (size_t i = 0; i < best.size(); ++i) best[i] = std::min(best[i], taken[i]);
  }

  const double peak = stugan::peak(code.tiles->lanes);
  std::printf("%s, %lld images in runs of %lld, one thread; peak %.1f GFLOP/s\n\n", code.name,
              static_cast<long long>(num_images), static_cast<long long>(most), peak / 1e9);
  std::printf("| step | ms/image | M products | GFLOP/s | of the peak |\n"
              "| --- | --- | --- | --- | --- |\n");
  const auto row = [&](const std::string& name, double taken, int64_t products) {
    const double rate = 2.0 * static_cast<double>(products) * num_images / taken;
    std::printf("| %s | %.4f | %.2f | %.1f | %.0f %% |\n", name.c_str(), 1e3 * taken / num_images,
                1e-6 * static_cast<double>(products), rate / 1e9, 100 * rate / peak);
  };
  int64_t products = 0;
  for (size_t i = 0; i < best.size(); ++i) {
    products += plan.steps[i]->num_products();
    row(plan.steps[i]->name(), best[i], plan.steps[i]->num_products());
  }
  row("all", best_whole, products);
  return 0;
}

}  // namespace
}  // namespace stugan

int main(int count, char** arguments) {
  const long images = count > 2 ? std::atol(arguments[2]) : 16;
  const int calls = count > 3 ? std::atoi(arguments[3]) : 30;
  if (count < 2 || images < 1 || calls < 1) {
    std::fprintf(stderr, "layers generator.safetensors [images of a call] [calls]\n");
    return 1;
  }
  return stugan::measure(arguments[1], images, calls);
}
