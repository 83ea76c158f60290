// A small parser of JSON whose memory is bounded: 16 bytes for each value, up to a limit.
//
// Values stay where they are in the text; the parser notes only where each begins and ends. As in
// Python's json, NaN and Infinity are numbers, and the last of equal keys counts.

#ifndef STUGAN_RUNTIME_JSON_H_
#define STUGAN_RUNTIME_JSON_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "status.h"

namespace stugan {

class Json;

// One value in a parsed text. A default one is a value that is missing: every question to it has
// the answer no.
class Value {
 public:
  Value() = default;

  bool is_there() const { return json_ != nullptr; }
  bool is_null() const { return kind() == 'n'; }
  bool is_string() const { return kind() == '"'; }
  bool is_array() const { return kind() == '['; }
  bool is_object() const { return kind() == '{'; }
  bool is_bool() const { return kind() == 't' || kind() == 'f'; }
  bool is_number() const { return kind() == '0'; }
  bool is_true() const { return kind() == 't'; }

  // Whether this is an integer from `least` to `most`, which goes to `result`.
  bool integer(int64_t least, int64_t most, int64_t* result) const;

  // Whether this is a finite number, which goes to `result`.
  bool number(double* result) const;

  // Whether this is a string; its characters, in UTF-8, go to `result`.
  bool string(std::string* result) const;

  // Whether this is the string `text`.
  bool is(std::string_view text) const;

  // The value of a key of an object, missing if there is none.
  Value operator[](std::string_view key) const;

  // The elements of an array; of an object, its keys and values in turn.
  std::vector<Value> elements() const;

  // The number of elements of an array; 0 of anything else.
  size_t size() const { return is_array() ? elements().size() : 0; }

  // Where the value stands in the text; of a string, without the quotes.
  std::string_view raw() const;

 private:
  friend class Json;
  Value(const Json* json, uint32_t index) : json_(json), index_(index) {}
  char kind() const;

  const Json* json_ = nullptr;
  uint32_t index_ = 0;
};

class Json {
 public:
  static constexpr size_t kMaxValues = size_t{1} << 21;
  static constexpr int kMaxDepth = 100;

  // Parses a text, which must outlive this, of less than 2^31 bytes.
  Status parse(std::string_view text);

  Value root() const { return {this, 0}; }

 private:
  friend class Value;

  struct Entry {
    uint32_t begin, end;  // Of the text.
    uint32_t next;        // The entry after this value and all that is in it.
    char kind;            // The first character; '0' for numbers.
  };

  bool parse_value(int depth);
  bool parse_string();
  bool parse_number();
  bool parse_word(std::string_view word, char kind);
  void skip_space();
  bool accept(char character);

  std::string_view text_;
  size_t position_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace stugan

#endif  // STUGAN_RUNTIME_JSON_H_
