// expert_block: gates and what they let through, and the product of both, as one loop over all chosen experts.
//
// Threads stay from the first product to the last. Biases are added where sums end, and gates are computed as the inputs of what
// follows are packed, so nothing in between is left to one thread while the others wait.
#pragma once
#include "cpu/kernel_elementwise.h"
#include "cpu/kernel_experts.h"

namespace zi::ZI_ISA {

/// Products of what is alike, which run beside each other.
template <class F>
inline void WithFirstProducts(const ExpertBlock& block, F f) {
  WithExperts(*block.products[0], [&](auto product_of) {
    const ExpertLinearOp& last = block.products[1] ? *block.products[1] : *block.products[0];
    const decltype(product_of(last, View{})) products[] = {
        product_of(*block.products[0], block.bias ? block.bias->bias : View{}), product_of(last, View{})};
    f(products, block.products[1] ? 2 : 1);
  });
}

inline void ExpertBlockKernel(const ExpertBlock& block, Run& run) {
  CheckExperts(*block.products[0]);
  if (block.products[1]) CheckExperts(*block.products[1]);
  if (block.down) CheckExperts(*block.down);
  WithFirstProducts(block, [&]<class Experts>(const ExpertProduct<Experts>* products, int64_t count) {
    if (!block.down) return ExpertsOf(products, count, run);
    const int64_t choices = products->op.out.shape[0];
    WithExperts(*block.down, [&](auto product_of) {
      const auto product = product_of(*block.down, block.down_bias ? block.down_bias->bias : View{});
      // More than are packed at once: then each loop is long, and goes through slices of its own.
      if (choices > Smaller(ChoicesAtOnce(products->op), ChoicesAtOnce(*block.down))) {
        ExpertsOf(products, count, run);
        block.gated ? GatedKernel(*block.gated, run) : GatedPairsKernel(*block.pairs, run);
        return ExpertsOf(&product, 1, run);
      }
      ExpertProducts<Experts> between(products, count, 0, choices);
      ExpertProducts down(&product, 1, 0, choices);
      const SortedChoices sorted(products->op, 0, choices, between.bytes() + down.bytes());
      between.Begin(sorted.rest, sorted.groups, run);
      down.Begin(sorted.rest + between.bytes(), sorted.groups, run);
      const auto pack = [&](int64_t at) { between.Pack(at); };
      const auto multiply = [&](int64_t task) { between.Multiply(task); };
      const auto gate = [&](int64_t at) {
        const auto [choice, from, to] = down.PieceOf(at);
        block.gated ? GateSome(*block.gated, choice, from, to) : GateSome(*block.pairs, choice, from, to);
        down.Pack(at);
      };
      const auto multiply_down = [&](int64_t task) { down.Multiply(task); };
      const ThreadPool::Phase phases[] = {
          PhaseOf(between.piece_count, between.piece_work, pack), PhaseOf(between.task_count, between.task_work, multiply),
          PhaseOf(down.piece_count, down.piece_work * kGateWork, gate), PhaseOf(down.task_count, down.task_work, multiply_down)};
      run.pool.ParallelPhases(phases, 4, run.cancel);
    });
  });
}

}  // namespace zi::ZI_ISA
