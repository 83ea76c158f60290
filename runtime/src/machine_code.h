// The code for the processor that runs this.

#ifndef STUGAN_RUNTIME_MACHINE_CODE_H_
#define STUGAN_RUNTIME_MACHINE_CODE_H_

#include <cstdlib>
#include <cstring>

#include "halves.h"
#include "loops.h"
#include "machine.h"
#include "sparse_convolution.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace stugan {

struct MachineCode {
  const char* name = nullptr;
  const InstructionSet* tiles = nullptr;
  const Loops* loops = nullptr;
  const Halves* halves = nullptr;  // Of half precision, else null.
};

// What the baseline is: that of the compiler's target.
#if defined(__aarch64__)
constexpr const char* kBaselineName = "neon";
constexpr const char* kHalvesName = "neon-fp16";
#elif defined(__wasm_simd128__)
constexpr const char* kBaselineName = "simd128";
#else
constexpr const char* kBaselineName = "baseline";
constexpr const char* kHalvesName = "avx512-fp16";
#endif

// Whether this machine computes in half precision.
inline bool machine_has_halves() {
#if !defined(STUGAN_NATIVE_HALVES)
  return false;
#elif defined(STUGAN_X86_64)
  return machine_level() == 2 && __builtin_cpu_supports("avx512fp16");
#elif defined(__linux__)
  constexpr unsigned long kScalars = 1 << 9, kVectors = 1 << 10;  // HWCAP_FPHP, HWCAP_ASIMDHP
  return (getauxval(AT_HWCAP) & (kScalars | kVectors)) == (kScalars | kVectors);
#else
  return false;
#endif
}

// The best code for this machine, or the one that STUGAN_INSTRUCTION_SET names if that is less.
//   in_half: whether sparse convolutions are computed in half precision. The result has no name if
//     they cannot be.
inline MachineCode machine_code(bool in_half) {
  MachineCode best[] = {
    {kBaselineName, &kBaseline, &kBaselineLoops, nullptr},
#ifdef STUGAN_X86_64
    {"x86-64-v3", &kX86V3, &kX86V3Loops, nullptr},
    {"x86-64-v4", &kX86V4, &kX86V4Loops, nullptr},
#endif
  };
  int level = machine_level();
  [[maybe_unused]] bool allows_halves = true;
  [[maybe_unused]] bool emulates_halves = false;
#ifndef __wasi__  // Its environment would have to be asked for.
  if (const char* const wanted = std::getenv("STUGAN_INSTRUCTION_SET")) {
    emulates_halves = std::strcmp(wanted, "emulated-fp16") == 0;
    for (int i = 0; i <= machine_level(); ++i) {
      if (std::strcmp(best[i].name, wanted) != 0) continue;
      level = i;
      allows_halves = false;
    }
  }
#endif
  MachineCode result = best[level];
  if (!in_half) return result;
#ifdef STUGAN_EMULATED_HALVES
  if (emulates_halves) {
    result.name = "emulated-fp16";
    result.halves = &kEmulatedHalves;
    return result;
  }
#endif
#ifdef STUGAN_NATIVE_HALVES
  if (allows_halves && machine_has_halves()) {
    result.name = kHalvesName;
    result.halves = &kNativeHalves;
    return result;
  }
#endif
  return {};
}

}  // namespace stugan

#endif  // STUGAN_RUNTIME_MACHINE_CODE_H_
