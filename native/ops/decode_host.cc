// Reads and checks what a device asks of its host: operations on mailboxes, and the part of chosen experts that the host computes.
#include "ops/decode_parts.h"
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
