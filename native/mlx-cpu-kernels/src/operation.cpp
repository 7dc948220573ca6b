// An MLX operation that hands its work to Rust: see operation.rs, which declares the same table and views.
//
// An `mlx_array` of mlx-c 0.7 is a pointer to an `mlx::core::array`, and an `mlx_stream` one to an `mlx::core::Stream`;
// both are handed over as such.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "mlx/stream.h"

namespace mx = mlx::core;

extern "C" {

// One input while the operation runs: elements of four bytes, strides counted in elements.
struct rust_view {
  const void* data;
  const int32_t* shape;
  const int64_t* strides;
  size_t dimensions;
};

// What Rust gives for an operation; `self` is its first argument everywhere.
struct rust_operation {
  const void* self;
  const char* name;
  void (*run)(const void* self, const rust_view* inputs, size_t input_count, void* const* outputs, size_t output_count);
  // Puts one array for each of `argument_numbers` into `results`; returns null, or a message from `malloc`.
  char* (*vjp)(
      const void* self,
      mx::array* const* primals,
      size_t primal_count,
      mx::array* const* cotangents,
      mx::array* const* outputs,
      size_t output_count,
      const int* argument_numbers,
      size_t argument_count,
      mx::array** results);
  void (*release)(const void* self);
};
}

namespace {

// The Rust side, which every evaluation in flight keeps alive.
struct Shared {
  rust_operation table;
  explicit Shared(rust_operation table) : table(table) {}
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() {
    table.release(table.self);
  }
};

struct Input {
  const void* data;
  mx::Shape shape;
  mx::Strides strides;
};

class RustOperation : public mx::Primitive {
 public:
  RustOperation(mx::Stream stream, std::shared_ptr<Shared> shared)
      : mx::Primitive(stream), shared_(std::move(shared)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<Input> views;
    views.reserve(inputs.size());
    for (const auto& input : inputs) {
      views.push_back({input.data<char>(), input.shape(), input.strides()});
    }
    std::vector<void*> results;
    results.reserve(outputs.size());
    for (auto& output : outputs) {
      output.set_data(mx::allocator::malloc(output.nbytes()));
      results.push_back(output.data<char>());
    }
    auto& encoder = mx::cpu::get_command_encoder(stream());
    for (const auto& input : inputs) {
      encoder.set_input_array(input);
    }
    for (auto& output : outputs) {
      encoder.set_output_array(output);
    }
    encoder.dispatch([shared = shared_, views = std::move(views), results = std::move(results)]() {
      std::vector<rust_view> handed;
      handed.reserve(views.size());
      for (const auto& view : views) {
        handed.push_back({view.data, view.shape.data(), view.strides.data(), view.shape.size()});
      }
      const auto& table = shared->table;
      table.run(table.self, handed.data(), handed.size(), results.data(), results.size());
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(std::string(name()) + " runs on the CPU alone");
  }

  std::vector<mx::array> vjp(
      const std::vector<mx::array>& primals,
      const std::vector<mx::array>& cotangents,
      const std::vector<int>& argument_numbers,
      const std::vector<mx::array>& outputs) override {
    auto pointers = [](const std::vector<mx::array>& arrays) {
      std::vector<mx::array*> handles;
      handles.reserve(arrays.size());
      for (const auto& array : arrays) {
        handles.push_back(new mx::array(array));
      }
      return handles;
    };
    // Rust owns what it is handed, and gives what it makes.
    auto given = pointers(primals);
    auto changes = pointers(cotangents);
    auto made = pointers(outputs);
    std::vector<mx::array*> results(argument_numbers.size(), nullptr);
    const auto& table = shared_->table;
    char* message = table.vjp(
        table.self,
        given.data(),
        given.size(),
        changes.data(),
        made.data(),
        made.size(),
        argument_numbers.data(),
        argument_numbers.size(),
        results.data());
    std::vector<mx::array> gradients;
    for (auto* result : results) {
      if (result) {
        gradients.push_back(std::move(*result));
        delete result;
      }
    }
    if (message) {
      std::string text(message);
      std::free(message);
      throw std::runtime_error(text);
    }
    return gradients;
  }

  const char* name() const override {
    return shared_->table.name;
  }

 private:
  std::shared_ptr<Shared> shared_;
};

} // namespace

extern "C" {

// Makes the outputs of `table` for `inputs`; takes the Rust side over in any case. The shapes lie one after the other in
// `shapes`. Returns null, or a message from `malloc`.
char* rust_operation_apply(
    rust_operation table,
    mx::array* const* inputs,
    size_t input_count,
    const int32_t* shapes,
    const size_t* dimensions,
    size_t output_count,
    const mx::Stream* stream,
    mx::array** outputs) {
  try {
    auto shared = std::make_shared<Shared>(table);
    std::vector<mx::array> arguments;
    arguments.reserve(input_count);
    for (size_t index = 0; index < input_count; ++index) {
      arguments.push_back(*inputs[index]);
    }
    std::vector<mx::Shape> output_shapes;
    for (size_t index = 0; index < output_count; ++index) {
      output_shapes.emplace_back(shapes, shapes + dimensions[index]);
      shapes += dimensions[index];
    }
    auto primitive = std::make_shared<RustOperation>(*stream, std::move(shared));
    auto made = mx::array::make_arrays(
        std::move(output_shapes),
        std::vector<mx::Dtype>(output_count, mx::float32),
        primitive,
        std::move(arguments));
    for (size_t index = 0; index < output_count; ++index) {
      outputs[index] = new mx::array(std::move(made[index]));
    }
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  }
}
}
