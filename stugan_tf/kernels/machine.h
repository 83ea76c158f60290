// What the processor that runs this can do.

#ifndef STUGAN_TF_KERNELS_MACHINE_H_
#define STUGAN_TF_KERNELS_MACHINE_H_

namespace stugan {

// The best instruction set of this machine: 0 baseline, 1 x86-64-v3, 2 x86-64-v4.
inline int machine_level() {
#ifdef STUGAN_X86_64
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512cd");
  return v4 ? 2 : v3 ? 1 : 0;
#else
  return 0;
#endif
}

}  // namespace stugan

#endif  // STUGAN_TF_KERNELS_MACHINE_H_
