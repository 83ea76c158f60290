# Compiles for another target by `zig c++`, which brings its own C++ library. -DSTUGAN_TARGET names
# the target, -DSTUGAN_ZIG the compiler: `zig` of the path, or of the wheel `ziglang`.
#
#   cmake -S runtime -B build-wasm -DCMAKE_TOOLCHAIN_FILE=runtime/cmake/zig.cmake \
#       -DSTUGAN_TARGET=wasm32-wasi

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES STUGAN_TARGET STUGAN_ZIG)
if(NOT STUGAN_TARGET)
  message(FATAL_ERROR "STUGAN_TARGET is missing, e.g. -DSTUGAN_TARGET=aarch64-linux-musl")
endif()
find_program(STUGAN_ZIG zig REQUIRED)

string(REGEX MATCH "^[^-]+" CMAKE_SYSTEM_PROCESSOR ${STUGAN_TARGET})
if(STUGAN_TARGET MATCHES "linux")
  set(CMAKE_SYSTEM_NAME Linux)
else()
  set(CMAKE_SYSTEM_NAME Generic)
endif()
set(CMAKE_CXX_COMPILER ${STUGAN_ZIG})
set(CMAKE_CXX_COMPILER_ARG1 c++)
set(CMAKE_CXX_COMPILER_TARGET ${STUGAN_TARGET})
