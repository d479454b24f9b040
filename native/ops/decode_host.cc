// Reads and checks what a device asks of its host: operations on mailboxes, and the part of chosen experts that the host computes.
#include "core/io_pieces.h"
#include "ops/decode_parts.h"
#include "ops/exchange.h"
#include "ops/mailbox.h"

namespace zi {
namespace {

Mail ReadMail(WordReader& in) {
  const Mail mail{in.Index("mail.words"), in.Index("mail.state")};
  in.CheckSize(mail.words, 0, kMailWords, "mail.words");
  in.CheckSize(mail.state, 0, kMailStateWords, "mail.state");
  in.Check(reinterpret_cast<uintptr_t>(mail.words.data) % 8 == 0 && reinterpret_cast<uintptr_t>(mail.state.data) % 8 == 0,
           "a mailbox begins at a multiple of 8 bytes");
  return mail;
}

void CheckFollowing(const WordReader& in, const View& slots) {
  in.Check(slots.shape[0] > 0 && slots.strides[0] == slots.shape[1], "slots follow each other");
}

int64_t ReadJob(WordReader& in) {
  const uint64_t job = in.Size("job");
  in.Check(job <= INT32_MAX, "jobs are numbered by 32 bits");
  return static_cast<int64_t>(job);
}

}  // namespace

AsideExperts ReadAside(Reader& in, const View& experts) {
  AsideExperts aside{};
  aside.here = in.OptionalIndexTable("aside.here");
  aside.there = in.OptionalIndexTable("aside.there");
  aside.x = in.OptionalActivation("aside.x", 2);
  aside.host_x = in.OptionalFloatTable("aside.hostX");
  aside.weights = in.OptionalFloatTable("aside.weights");
  aside.host_weights = in.OptionalFloatTable("aside.hostWeights");
  if (!aside) {
    for (int i = 0; i < 2; ++i) in.OptionalIndex("aside.mail");
    ReadJob(in);
    return aside;
  }
  aside.mail = ReadMail(in);
  aside.job = ReadJob(in);
  in.Check(aside.there.data && aside.x.data && aside.host_x.data, "the host is given choices and inputs");
  in.Check((aside.weights.data == nullptr) == (aside.host_weights.data == nullptr), "weights go from somewhere to somewhere");
  CheckSameShape(in, aside.here, experts, "aside.here");
  CheckSameShape(in, aside.there, experts, "aside.there");
  const int64_t tokens = experts.shape[0];
  in.CheckSize(aside.x, 0, aside.x.shape[0] == tokens ? tokens : tokens * experts.shape[1], "aside.x");
  CheckSameShape(in, aside.host_x, aside.x, "aside.hostX");
  if (aside.weights.data) {
    CheckSameShape(in, aside.weights, experts, "aside.weights");
    CheckSameShape(in, aside.host_weights, experts, "aside.hostWeights");
  }
  return aside;
}

HostSlots ReadHostSlots(Reader& in) {
  HostSlots behind{};
  behind.slots = in.OptionalBytesTable("behind.slots");
  behind.asked = in.OptionalIndex("behind.asked");
  behind.found = in.OptionalIndexTable("behind.found");
  if (!behind) {
    for (int i = 0; i < 2; ++i) in.OptionalIndex("behind.mail");
    ReadJob(in);
    return behind;
  }
  behind.mail = ReadMail(in);
  behind.job = ReadJob(in);
  in.Check(behind.asked.data && behind.found.data, "a host is asked somewhere, and answers");
  CheckFollowing(in, behind.slots);
  return behind;
}

Operation FindExperts(Reader& in) {
  FindExpertsOp op{in.Index("asked"),           in.IndexTable("found"),        in.ByteRows("slots", 2),      in.IndexTable("begins"),
                   in.Index("alike"),           in.Index("tables.slotOf"),     in.Index("tables.keyOf"),     in.Index("tables.uses"),
                   in.Index("tables.stamps"),   in.Index("tables.readAs"),     in.Index("tables.calls"),     in.Index("counts"),
                   static_cast<int64_t>(in.Size("ageCalls")), nullptr};
  in.files = in.Pieces("files");
  op.files = in.files.get();
  const int64_t keys = op.slot_of.shape[0], slots = op.slots.shape[0];
  in.Check(op.files && static_cast<int64_t>(op.files->count()) == keys, "every expert has a piece of the files");
  CheckFollowing(in, op.slots);
  const HostMemory& memory = op.files->memory();
  in.Check(op.slots.data >= memory.data() && op.slots.data + slots * op.slots.shape[1] <= memory.data() + memory.size(),
           "slots lie elsewhere than files are read into");
  in.Check(slots < (int64_t{1} << 24) && op.age_calls > 0, "there are fewer slots, and uses are halved after some calls");
  in.CheckSize(op.begins, 0, keys, "begins");
  in.CheckSize(op.alike, 0, keys, "alike");
  for (const View* view : {&op.key_of, &op.uses, &op.stamps, &op.read_as}) in.CheckSize(*view, 0, slots, "tables");
  in.CheckSize(op.calls, 0, 1, "tables.calls");
  in.CheckSize(op.counts, 0, 2, "counts");
  in.Check(op.asked.shape[0] >= kAskedHead && op.found.shape[1] >= kFoundHead + 2 * op.begins.shape[1],
           "what is asked has a head, and what is found room for all parts");
  return op;
}

Operation AskHost(Reader& in) {
  AskHostOp op{in.Activation("from", 2), in.Floats("to", 2), {}, 0};
  CheckSameShape(in, op.to, op.from, "to");
  op.mail = ReadMail(in);
  op.job = ReadJob(in);
  return op;
}

Operation TakeHost(Reader& in) {
  TakeHostOp op{in.Activation("out", 2), in.Floats("from", 2), in.OptionalIndexTable("choices"), {}};
  CheckSameShape(in, op.from, op.out, "from");
  if (op.choices.data) in.CheckSize(op.out, 0, op.choices.shape[0] * op.choices.shape[1], "out");
  op.mail = ReadMail(in);
  return op;
}

}  // namespace zi
