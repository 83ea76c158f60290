// The code for the processor that runs this.

#ifndef STUGAN_RUNTIME_MACHINE_CODE_H_
#define STUGAN_RUNTIME_MACHINE_CODE_H_

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "loops.h"
#include "machine.h"
#include "sparse_convolution.h"

namespace stugan {

struct MachineCode {
  const char* name;
  const InstructionSet* tiles;
  const Loops* loops;
};

// What the baseline is: that of the compiler's target.
#if defined(__aarch64__)
constexpr const char* kBaselineName = "neon";
#elif defined(__wasm_simd128__)
constexpr const char* kBaselineName = "simd128";
#else
constexpr const char* kBaselineName = "baseline";
#endif

// The best code for this machine, or the one that STUGAN_INSTRUCTION_SET names if that is less.
inline MachineCode machine_code() {
  const MachineCode all[] = {
    {kBaselineName, &kBaseline, &kBaselineLoops},
#ifdef STUGAN_X86_64
    {"x86-64-v3", &kX86V3, &kX86V3Loops},
    {"x86-64-v4", &kX86V4, &kX86V4Loops},
#endif
  };
  int level = machine_level();
#ifndef __wasi__  // Its environment would have to be asked for.
  if (const char* const wanted = std::getenv("STUGAN_INSTRUCTION_SET")) {
    for (int i = 0; i < level; ++i) {
      if (std::strcmp(all[i].name, wanted) == 0) level = i;
    }
  }
#endif
  return all[level];
}

}  // namespace stugan

#endif  // STUGAN_RUNTIME_MACHINE_CODE_H_
