// Implements cpu/bring.h: one thread decides who leaves, and all copy.
#include "cpu/bring.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/io_pieces.h"
#include "cpu/exchange.h"
#include "cpu/host_part.h"
#include "ops/mailbox.h"
#include "ops/slots.h"

namespace zi {
namespace {

int32_t* Words(const View& view) { return reinterpret_cast<int32_t*>(view.data); }

int32_t& ChoiceOf(const View& experts, int64_t choice) {
  const int64_t each = experts.shape[1];
  return Words(experts)[choice / each * experts.strides[0] + choice % each];
}

/// In ascending order, each once. Indices are data: checked before anything is written.
std::vector<int32_t> Wanted(const BringExpertsOp& op) {
  std::vector<int32_t> wanted;
  const int64_t choices = op.experts.shape[0] * op.experts.shape[1];
  for (int64_t choice = 0; choice < choices; ++choice) {
    const int32_t expert = ChoiceOf(op.experts, choice);
    if (expert < 0 || expert >= op.expert_count()) {
      throw std::runtime_error("expert " + std::to_string(expert) + " of choice " + std::to_string(choice) + " is none of " +
                               std::to_string(op.expert_count()));
    }
    wanted.push_back(expert);
  }
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  return wanted;
}

/// So many slots, those that leave first.
std::vector<int32_t> Leaving(const BringExpertsOp& op, size_t count, int32_t calls) {
  const int64_t slots = op.slots.shape[0];
  const int32_t *keys = Words(op.key_of), *stamps = Words(op.stamps), *uses = Words(op.uses);
  std::vector<int64_t> worth(static_cast<size_t>(slots));
  std::vector<int32_t> order;
  for (int32_t slot = 0; slot < slots; ++slot) {
    const int32_t key = keys[slot];
    if (key >= 0 && stamps[slot] == calls) continue;
    const uint32_t since = CallsSince(calls, stamps[slot]);
    const int32_t before = key < 0 ? 0 : UsesBefore(uses[key], key < op.first_key, since, op.age_calls);
    worth[static_cast<size_t>(slot)] = Worth(key < 0, before, since);
    order.push_back(slot);
  }
  const auto less = [&](int32_t a, int32_t b) {
    const int64_t left = worth[static_cast<size_t>(a)], right = worth[static_cast<size_t>(b)];
    return left != right ? left < right : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(count), order.end(), less);
  order.resize(count);
  return order;
}

struct Parts {
  const BringExpertsOp& op;
  int64_t count;

  int64_t Offset(int64_t part) const { return Words(op.places)[2 * part]; }
  int64_t Bytes(int64_t part) const { return Words(op.places)[2 * part + 1]; }
  int64_t Home(int64_t expert, int64_t part) const {
    const int32_t* words = Words(op.places) + (1 + expert) * op.places.shape[1] + 2 * part;
    return static_cast<int64_t>(static_cast<uint32_t>(words[1])) << 32 | static_cast<uint32_t>(words[0]);
  }
};

void Check(const Parts& parts, const std::vector<int32_t>& experts) {
  const BringExpertsOp& op = parts.op;
  for (int64_t part = 0; part < parts.count; ++part) {
    const int64_t offset = parts.Offset(part), bytes = parts.Bytes(part);
    const bool fits = offset >= 0 && bytes >= 0 && offset + bytes <= op.slots.shape[1];
    for (const int32_t expert : experts) {
      const int64_t from = parts.Home(expert, part);
      if (!fits || from < 0 || from + bytes > op.home.shape[0]) throw std::runtime_error("a part of an expert lies outside");
    }
  }
}

struct Copies {
  Parts parts;
  const std::vector<int32_t>& experts;
  const std::vector<int32_t>& slots;
};

void Copy(const Copies& copies, Run& run) {
  run.pool.ParallelFor(
      copies.experts.size() * static_cast<size_t>(copies.parts.count), 1, run.cancel,
      [](void* context, size_t begin, size_t end) {
        const auto& [parts, experts, slots] = *static_cast<const Copies*>(context);
        for (size_t i = begin; i < end; ++i) {
          const auto which = i / static_cast<size_t>(parts.count);
          const auto part = static_cast<int64_t>(i % static_cast<size_t>(parts.count));
          uint8_t* const slot = parts.op.slots.data + slots[which] * parts.op.slots.strides[0];
          std::memcpy(slot + parts.Offset(part), parts.op.home.data + parts.Home(experts[which], part),
                      static_cast<size_t>(parts.Bytes(part)));
        }
      },
      const_cast<Copies*>(&copies));
}

/// Takes those out of `missing` that the host computes, which are wanted least, and asks for them.
void LeaveToHost(const BringExpertsOp& op, int32_t calls, std::vector<int32_t>& missing, Run& run) {
  const AsideExperts& aside = op.aside;
  auto count = static_cast<size_t>(PlannedShare(aside.mail, static_cast<int32_t>(missing.size()), calls));
  const int32_t* uses = Words(op.uses) + op.first_key;
  std::vector<int32_t> left = missing;
  std::stable_sort(left.begin(), left.end(), [&](int32_t a, int32_t b) { return uses[a] < uses[b]; });
  if (count > 0 && count == left.size()) {
    const int32_t leaves = Words(op.key_of)[Leaving(op, 1, calls)[0]];
    if (ComesAnyway(leaves < 0, uses[left.back()], leaves < 0 ? 0 : Words(op.uses)[leaves], IsBalanced(aside.mail))) --count;
  }
  left.resize(count);
  const auto is_left = [&](int32_t expert) { return std::find(left.begin(), left.end(), expert) != left.end(); };
  missing.erase(std::remove_if(missing.begin(), missing.end(), is_left), missing.end());
  if (count > 0) AwaitHost(aside.mail, run.cancel);
  for (int64_t choice = 0; choice < op.experts.shape[0] * op.experts.shape[1]; ++choice) {
    const int32_t expert = ChoiceOf(op.experts, choice);
    const bool leaves = is_left(expert);
    ChoiceOf(aside.here, choice) = leaves ? kElsewhere : expert;
    if (count > 0) ChoiceOf(aside.there, choice) = leaves ? expert : kElsewhere;
  }
  if (count > 0) {
    CopyRows(aside.x, aside.host_x);
    if (aside.weights.data) CopyRows(aside.weights, aside.host_weights);
  }
  Words(op.counts)[2] += static_cast<int32_t>(count);
  NoteAsked(aside.mail, static_cast<int32_t>(missing.size()), static_cast<int32_t>(count));
  if (count > 0) Ask(aside.mail, aside.job);
}

/// All at once, and awaited by whoever uses them.
void Read(const BringExpertsOp& op, const std::vector<int32_t>& experts, const std::vector<int32_t>& slots, Run& run) {
  const int64_t first = op.slots.data - op.files->memory().data();
  std::vector<IoPieces::Wanted> wanted;
  for (size_t i = 0; i < experts.size(); ++i) {
    wanted.push_back({static_cast<uint64_t>(op.first_key + experts[i]),
                      static_cast<uint64_t>(first + slots[i] * op.slots.strides[0])});
  }
  op.files->Begin(wanted, run.cancel);
}

uint64_t PieceOf(const ExpertLinearOp& op, int64_t choice) {
  return static_cast<uint64_t>(op.first_piece + ChoiceOf(op.experts, choice));
}

/// The choices of one token one by one: those of experts that are there, then the others as these arrive.
void EachAsItComes(const ExpertLinearOp& op, Run& run, ExpertKernel kernel) {
  const int64_t choices = op.experts.shape[1];
  std::vector<int64_t> order, late;
  for (int64_t choice = 0; choice < choices; ++choice) {
    (op.files->IsAwaited(PieceOf(op, choice)) ? late : order).push_back(choice);
  }
  // They were asked for in this order.
  std::sort(late.begin(), late.end(), [&](int64_t a, int64_t b) { return PieceOf(op, a) < PieceOf(op, b); });
  order.insert(order.end(), late.begin(), late.end());
  for (const int64_t choice : order) {
    op.files->Await(PieceOf(op, choice), run.cancel);
    if (run.cancel) return;
    ExpertLinearOp one = op;
    one.experts.shape[1] = 1;
    one.experts.data += choice * ElementBytes(one.experts.dtype);
    one.out.shape[0] = 1;
    one.out.data += choice * one.out.strides[0] * ElementBytes(one.out.dtype);
    if (one.x.shape[0] > 1) one.x.data += choice * one.x.strides[0] * ElementBytes(one.x.dtype);
    one.x.shape[0] = 1;
    kernel(one, run);
  }
}

}  // namespace

void MultiplyAsTheyCome(const ExpertLinearOp& op, Run& run, ExpertKernel kernel) {
  if (op.experts.shape[0] == 1) {
    for (int64_t choice = 0; choice < op.experts.shape[1]; ++choice) {
      if (op.files->IsAwaited(PieceOf(op, choice))) return EachAsItComes(op, run, kernel);
    }
  }
  op.files->AwaitAll(run.cancel);
  if (!run.cancel) kernel(op, run);
}

void BringExperts(const BringExpertsOp& op, Run& run) {
  const std::vector<int32_t> wanted = Wanted(op);
  int32_t *slot_of = Words(op.slot_of) + op.first_key, *uses = Words(op.uses), *stamps = Words(op.stamps);
  const int32_t calls = ++*Words(op.calls);
  if (calls % op.age_calls == 0) {
    for (int64_t key = 0; key < op.uses.shape[0]; ++key) uses[key] /= 2;
  }
  std::vector<int32_t> missing;
  for (const int32_t expert : wanted) {
    int32_t& used = uses[op.first_key + expert];
    used = UsedOnce(used);
    if (slot_of[expert] < 0) {
      missing.push_back(expert);
    } else {
      stamps[slot_of[expert]] = calls;
    }
  }
  Words(op.counts)[0] += static_cast<int32_t>(wanted.size() - missing.size());
  if (op.aside) LeaveToHost(op, calls, missing, run);
  Words(op.counts)[1] += static_cast<int32_t>(missing.size());
  const Parts parts{op, op.part_count()};
  if (op.home.data) Check(parts, missing);
  if (op.behind && !missing.empty()) AwaitHost(op.behind.mail, run.cancel);
  const std::vector<int32_t> slots = Leaving(op, missing.size(), calls);
  std::vector<Exchanged> exchanged;
  int32_t* const list = Words(op.list);
  list[0] = static_cast<int32_t>(missing.size());
  for (size_t i = 0; i < missing.size(); ++i) {
    int32_t& key = Words(op.key_of)[slots[i]];
    const auto comes = static_cast<int32_t>(op.first_key) + missing[i];
    exchanged.push_back({comes, uses[comes], key, key < 0 ? 0 : uses[key], stamps[slots[i]]});
    if (key >= 0) Words(op.slot_of)[key] = -1;
    key = comes;
    slot_of[missing[i]] = slots[i];
    stamps[slots[i]] = calls;
    list[1 + 2 * i] = missing[i];
    list[2 + 2 * i] = slots[i];
  }
  if (op.files) return Read(op, missing, slots, run);
  if (op.behind) {
    if (!missing.empty()) ExchangeExperts(op, exchanged.data(), static_cast<int32_t>(missing.size()), run);
    return;
  }
  Copy({parts, missing, slots}, run);
}

ExpertLinearOp Placed(const ExpertLinearOp& op, const ExpertParts& places) {
  for (int64_t choice = 0; choice < op.out.shape[0]; ++choice) {
    const int32_t expert = ChoiceOf(op.experts, choice);
    if (expert < 0 || expert >= op.expert_count) continue;  // elsewhere, or the product says so
    const int32_t slot = Words(op.slots)[expert];
    if (slot < 0 || slot >= op.slot_count) {
      throw std::runtime_error("expert " + std::to_string(expert) + " of choice " + std::to_string(choice) + " lies in no slot");
    }
  }
  ExpertLinearOp placed = op;
  placed.slots = View{};
  for (int part = 0; part < kWeightParts; ++part) {
    if (op.parts[part]) placed.parts[part] = places.places[part].data();
  }
  return placed;
}

}  // namespace zi
