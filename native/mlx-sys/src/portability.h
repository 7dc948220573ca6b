// Included before every mlx-c source file: what those sources expect of the
// compiler and what gcc 12 and x86-64 do not give them.
#ifndef MLX_SYS_PORTABILITY_H
#define MLX_SYS_PORTABILITY_H

#ifdef __cplusplus
#include <version>
#if __has_include(<format>)
#include <format>
#else
// gcc gained <format> in version 13. mlx-c only uses plain `{}` placeholders.
#include <sstream>
#include <string>
#include <string_view>
namespace std {
template <typename... Values>
string format(string_view pattern, const Values&... values) {
  ostringstream text;
  auto write_next = [&](const auto& value) {
    auto placeholder = pattern.find("{}");
    text << pattern.substr(0, placeholder) << value;
    pattern.remove_prefix(
        placeholder == string_view::npos ? pattern.size() : placeholder + 2);
  };
  (write_next(values), ...);
  text << pattern;
  return text.str();
}
} // namespace std
#endif
#endif

#ifdef __cplusplus
#include "mlx/version.h"
#if MLX_VERSION_NUMERIC >= 32003
// mlx-c 0.7.0 was written for MLX 0.32.2. Since 0.32.3 `gather_qmm` takes the scale of a whole tensor before the flag
// that was last; this is the call as it was, without one.
#include "mlx/ops.h"
namespace mlx::core {
inline array gather_qmm(
    const array& x,
    const array& w,
    const array& scales,
    const std::optional<array>& biases,
    std::optional<array> lhs_indices,
    std::optional<array> rhs_indices,
    bool transpose,
    std::optional<int> group_size,
    std::optional<int> bits,
    const std::string& mode,
    bool sorted_indices,
    StreamOrDevice s) {
  return gather_qmm(
      x,
      w,
      scales,
      biases,
      std::move(lhs_indices),
      std::move(rhs_indices),
      transpose,
      group_size,
      bits,
      mode,
      std::nullopt,
      sorted_indices,
      s);
}
} // namespace mlx::core
#endif
#endif

#if !defined(__aarch64__)
// mlx-c declares its 16-bit float accessors only where the compiler has the
// types. The accessors only reinterpret memory, so 16-bit integers serve.
#include <stdint.h>
#define MLX_HALF_H
#define HAS_FLOAT16
#define HAS_BFLOAT16
typedef uint16_t float16_t;
typedef uint16_t bfloat16_t;
#endif

#endif
