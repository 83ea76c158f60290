// For libraries with LLVM's C++ library linked in, as Zig does. Its handler of uncaught exceptions
// prints the type of one, and brings a quarter of the library along to spell it. No exception
// leaves this library, so the mangled name will do.

#include <cstddef>

extern "C" char* __cxa_demangle(const char*, char*, size_t*, int* status) {
  if (status) *status = -2;  // Not a valid name.
  return nullptr;
}
