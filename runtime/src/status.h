// Faults as values: a code of the C interface and a text. Nothing throws on purpose, so that the
// library can be built without exceptions.

#ifndef STUGAN_RUNTIME_STATUS_H_
#define STUGAN_RUNTIME_STATUS_H_

#include <string>
#include <utility>

#include "stugan.h"

namespace stugan {

struct [[nodiscard]] Status {
  stugan_status code = STUGAN_OK;
  std::string text;

  bool ok() const { return code == STUGAN_OK; }
};

inline Status damaged(const std::string& what) {
  return {STUGAN_DAMAGED,
          "The file is damaged or not a sparse file of stugan_tf (" + what +
              "). Copy or export it again."};
}

inline Status unsupported(std::string text) { return {STUGAN_UNSUPPORTED, std::move(text)}; }

inline Status wrong_argument(std::string text) { return {STUGAN_WRONG_ARGUMENT, std::move(text)}; }

#define STUGAN_RETURN_IF_ERROR(expression)               \
  do {                                                   \
    ::stugan::Status status_of_call = (expression);      \
    if (!status_of_call.ok()) return status_of_call;     \
  } while (false)

}  // namespace stugan

#endif  // STUGAN_RUNTIME_STATUS_H_
