#include "json.h"

#include <cmath>
#include <cstdlib>

namespace stugan {
namespace {

// The value of a hexadecimal digit, or -1.
int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void append_utf8(uint32_t code, std::string* result) {
  if (code < 0x80) {
    result->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    result->push_back(static_cast<char>(0xC0 | code >> 6));
    result->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else if (code < 0x10000) {
    result->push_back(static_cast<char>(0xE0 | code >> 12));
    result->push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    result->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else {
    result->push_back(static_cast<char>(0xF0 | code >> 18));
    result->push_back(static_cast<char>(0x80 | (code >> 12 & 0x3F)));
    result->push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    result->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

char Value::kind() const { return json_ ? json_->entries_[index_].kind : '\0'; }

std::string_view Value::raw() const {
  if (!json_) return {};
  const auto& entry = json_->entries_[index_];
  return json_->text_.substr(entry.begin, entry.end - entry.begin);
}

bool Value::integer(int64_t least, int64_t most, int64_t* result) const {
  const std::string_view text = raw();
  if (!is_number() || text.size() > 18) return false;
  const bool negative = text[0] == '-';
  int64_t value = 0;
  for (const char c : text.substr(negative)) {
    if (!is_digit(c)) return false;
    value = 10 * value + (c - '0');
  }
  if (negative) value = -value;
  if (value < least || value > most) return false;
  *result = value;
  return true;
}

bool Value::number(double* result) const {
  if (!is_number() || raw().size() > 400) return false;
  *result = std::strtod(std::string(raw()).c_str(), nullptr);
  return std::isfinite(*result);
}

bool Value::string(std::string* result) const {
  if (!is_string()) return false;
  const std::string_view text = raw();  // The parser has checked its escapes.
  const auto code_at = [&](size_t i) {
    uint32_t code = 0;
    for (int k = 0; k < 4; ++k) code = 16 * code + digit(text[i + k]);
    return code;
  };
  result->clear();
  result->reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      result->push_back(text[i]);
      continue;
    }
    switch (const char c = text[++i]) {
      case 'b': result->push_back('\b'); break;
      case 'f': result->push_back('\f'); break;
      case 'n': result->push_back('\n'); break;
      case 'r': result->push_back('\r'); break;
      case 't': result->push_back('\t'); break;
      case 'u': {
        uint32_t code = code_at(i + 1);
        i += 4;
        if (code >= 0xD800 && code < 0xDC00 && i + 6 < text.size() && text[i + 1] == '\\' &&
            text[i + 2] == 'u') {
          const uint32_t low = code_at(i + 3);
          if (low >= 0xDC00 && low < 0xE000) {
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            i += 6;
          }
        }
        append_utf8(code >= 0xD800 && code < 0xE000 ? 0xFFFD : code, result);
        break;
      }
      default: result->push_back(c);
    }
  }
  return true;
}

bool Value::is(std::string_view text) const {
  if (!is_string()) return false;
  if (raw() == text) return true;
  if (raw().find('\\') == std::string_view::npos) return false;
  std::string unescaped;
  return string(&unescaped) && unescaped == text;
}

Value Value::operator[](std::string_view key) const {
  Value found;
  if (!is_object()) return found;
  const auto& entries = json_->entries_;
  for (uint32_t i = index_ + 1; i < entries[index_].next; i = entries[i + 1].next) {
    if (Value(json_, i).is(key)) found = {json_, i + 1};
  }
  return found;
}

std::vector<Value> Value::elements() const {
  std::vector<Value> result;
  if (!is_array() && !is_object()) return result;
  const auto& entries = json_->entries_;
  for (uint32_t i = index_ + 1; i < entries[index_].next; i = entries[i].next) {
    result.push_back({json_, i});
  }
  return result;
}

Status Json::parse(std::string_view text) {
  text_ = text;
  position_ = 0;
  entries_.clear();
  if (text.size() >= size_t{1} << 31 || !parse_value(0)) return damaged("no JSON");
  skip_space();
  if (position_ != text.size()) return damaged("more than JSON");
  return {};
}

void Json::skip_space() {
  while (position_ < text_.size()) {
    const char c = text_[position_];
    if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
    ++position_;
  }
}

bool Json::accept(char character) {
  skip_space();
  if (position_ >= text_.size() || text_[position_] != character) return false;
  ++position_;
  return true;
}

bool Json::parse_value(int depth) {
  skip_space();
  if (position_ >= text_.size() || depth > kMaxDepth || entries_.size() >= kMaxValues) return false;
  const char first = text_[position_];
  if (first != '{' && first != '[') {
    switch (first) {
      case '"': return parse_string();
      case 't': return parse_word("true", 't');
      case 'f': return parse_word("false", 'f');
      case 'n': return parse_word("null", 'n');
      case 'N': return parse_word("NaN", '0');
      case 'I': return parse_word("Infinity", '0');
      default: return parse_number();
    }
  }
  const size_t index = entries_.size();
  const char last = first == '{' ? '}' : ']';
  entries_.push_back({static_cast<uint32_t>(position_++), 0, 0, first});
  if (!accept(last)) {
    do {
      if (first == '{') {
        skip_space();
        if (entries_.size() >= kMaxValues || !parse_string() || !accept(':')) return false;
      }
      if (!parse_value(depth + 1)) return false;
    } while (accept(','));
    if (!accept(last)) return false;
  }
  entries_[index].end = static_cast<uint32_t>(position_);
  entries_[index].next = static_cast<uint32_t>(entries_.size());
  return true;
}

bool Json::parse_string() {
  if (position_ >= text_.size() || text_[position_] != '"') return false;
  const size_t begin = ++position_;
  for (; position_ < text_.size() && text_[position_] != '"'; ++position_) {
    const char c = text_[position_];
    if (static_cast<unsigned char>(c) < 0x20) return false;
    if (c != '\\') continue;
    if (++position_ >= text_.size()) return false;
    const char escaped = text_[position_];
    if (escaped == 'u') {
      if (text_.size() - position_ <= 4) return false;
      for (int k = 1; k <= 4; ++k) {
        if (digit(text_[position_ + k]) < 0) return false;
      }
      position_ += 4;
    } else if (std::string_view("\"\\/bfnrt").find(escaped) == std::string_view::npos) {
      return false;
    }
  }
  if (position_ >= text_.size()) return false;
  entries_.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(position_),
                      static_cast<uint32_t>(entries_.size() + 1), '"'});
  ++position_;
  return true;
}

bool Json::parse_number() {
  const size_t begin = position_;
  const auto peek = [&] { return position_ < text_.size() ? text_[position_] : '\0'; };
  const auto digits = [&] {
    const size_t first = position_;
    while (is_digit(peek())) ++position_;
    return position_ > first;
  };
  if (peek() == '-') ++position_;
  if (peek() == 'I') {
    position_ = begin;
    return parse_word("-Infinity", '0');
  }
  if (!digits()) return false;
  if (peek() == '.') {
    ++position_;
    if (!digits()) return false;
  }
  if (peek() == 'e' || peek() == 'E') {
    ++position_;
    if (peek() == '+' || peek() == '-') ++position_;
    if (!digits()) return false;
  }
  entries_.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(position_),
                      static_cast<uint32_t>(entries_.size() + 1), '0'});
  return true;
}

bool Json::parse_word(std::string_view word, char kind) {
  if (text_.substr(position_, word.size()) != word) return false;
  entries_.push_back({static_cast<uint32_t>(position_),
                      static_cast<uint32_t>(position_ + word.size()),
                      static_cast<uint32_t>(entries_.size() + 1), kind});
  position_ += word.size();
  return true;
}

}  // namespace stugan
