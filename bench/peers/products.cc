// Products of OpenBLAS and oneDNN, timed on request, so that bench/kernels can pair its own with theirs.
//
// g++ -O2 -o out/bench/products bench/peers/products.cc -lopenblas -ldnnl    (Debian: libopenblas-dev libdnnl-dev)
//
// Reads lines "LIBRARY DTYPE TOKENS OUTPUTS INPUTS COUNT THREADS"; answers each with the seconds of one product
// [T, K] · [N, K]ᵀ with weights as stored, each of COUNT products with other (cold) weights, or with "absent".
#include <cblas.h>
#include <dnnl.hpp>
#include <omp.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

extern "C" void openblas_set_num_threads(int);

namespace {

constexpr size_t kWeightBytes = size_t{320} << 20;

struct Request {
  std::string library, dtype;
  int64_t tokens, outputs, inputs;
  int count, threads;
};

double Seconds(int count, const std::function<void(int)>& product) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) product(i);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / count;
}

double OpenBlas(const Request& r, std::vector<float>& weights, std::vector<float>& x, std::vector<float>& out) {
  openblas_set_num_threads(r.threads);
  const size_t matrix = static_cast<size_t>(r.outputs * r.inputs), matrices = kWeightBytes / 4 / matrix;
  return Seconds(r.count, [&](int i) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(r.tokens), static_cast<int>(r.outputs),
                static_cast<int>(r.inputs), 1.0f, x.data(), static_cast<int>(r.inputs),
                weights.data() + static_cast<size_t>(i) % matrices * matrix, static_cast<int>(r.inputs), 0.0f, out.data(),
                static_cast<int>(r.outputs));
  });
}

double OneDnn(const Request& r, std::vector<float>& weights, std::vector<float>& x, std::vector<float>& out) {
  using dnnl::memory;
  omp_set_num_threads(r.threads);
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  static dnnl::stream stream(engine);
  const bool half = r.dtype == "bf16";
  const auto type = half ? memory::data_type::bf16 : memory::data_type::f32;
  const size_t bytes = static_cast<size_t>(r.outputs * r.inputs) * (half ? 2 : 4), matrices = kWeightBytes / bytes;
  const memory::desc x_desc({r.tokens, r.inputs}, type, memory::format_tag::ab);
  const memory::desc w_desc({r.inputs, r.outputs}, type, memory::format_tag::ba);
  const memory::desc o_desc({r.tokens, r.outputs}, memory::data_type::f32, memory::format_tag::ab);
  const dnnl::matmul::primitive_desc described(dnnl::matmul::desc(x_desc, w_desc, o_desc), engine);
  dnnl::matmul product(described);
  memory in(x_desc, engine, x.data()), to(o_desc, engine, out.data());
  auto* base = reinterpret_cast<uint8_t*>(weights.data());
  return Seconds(r.count, [&](int i) {
    memory w(w_desc, engine, base + static_cast<size_t>(i) % matrices * bytes);
    product.execute(stream, {{DNNL_ARG_SRC, in}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, to}});
    stream.wait();
  });
}

}  // namespace

int main() {
  std::vector<float> weights(kWeightBytes / 4, 0.01f), x, out;
  Request r;
  while (std::cin >> r.library >> r.dtype >> r.tokens >> r.outputs >> r.inputs >> r.count >> r.threads) {
    x.assign(static_cast<size_t>(r.tokens * r.inputs), 0.01f);
    out.resize(static_cast<size_t>(r.tokens * r.outputs));
    try {
      if (r.library == "openblas" && r.dtype == "f32") {
        std::cout << OpenBlas(r, weights, x, out) << std::endl;
      } else if (r.library == "onednn" && r.dtype != "f16") {
        std::cout << OneDnn(r, weights, x, out) << std::endl;
      } else {
        std::cout << "absent" << std::endl;
      }
    } catch (const dnnl::error&) {
      std::cout << "absent" << std::endl;
    }
  }
}
