// ask_host and take_host: inputs go to memory of the host, which computes with them while the device goes on, and results come from
// there.
#include "cuda/mail.h"
#include "cuda/overlap.h"
#include "cuda/views.h"

namespace zi::cuda {
namespace {

constexpr int kThreads = 256;
/// Inputs are a few rows; one block writes them as fast as the link takes them.
constexpr int kAskThreads = 1024;
constexpr unsigned kMostTakeBlocks = 32;

struct AskArguments {
  RowView from, to;
  int64_t rows, columns, job;
  MailArguments mail;
  Fault* fault;
};

__global__ void __launch_bounds__(kAskThreads) AskOfHost(const __grid_constant__ AskArguments a) {
  Begin();
  if (threadIdx.x == 0) {
    AwaitHost(a.mail, a.fault);
    NoteAsked(a.mail, 0, 0);
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < a.rows * a.columns; i += kAskThreads) {
    a.to.Row<float>(i / a.columns)[i % a.columns] = a.from.Get(i / a.columns, i % a.columns);
  }
  __syncthreads();
  if (threadIdx.x == 0) Ask(a.mail, a.job, 0);
}

struct TakeArguments {
  RowView out, from;
  int64_t rows, columns;
  const int32_t* choices;
  int64_t each, stride;
  MailArguments mail;
  Fault* fault;
};

__global__ void __launch_bounds__(kThreads) TakeFromHost(const __grid_constant__ TakeArguments a) {
  Begin();
  const bool first = blockIdx.x == 0 && threadIdx.x == 0;
  const int64_t began = first ? NowNs() : 0;
  // The host may have none of the choices.
  const bool any = !a.choices || a.mail.state[kAsideState] > 0;
  if (any && threadIdx.x == 0) AwaitHostTogether(a.mail, a.fault);
  __syncthreads();
  const int64_t values = any ? a.rows * a.columns : 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < values; i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / a.columns, column = i % a.columns;
    if (a.choices && a.choices[row / a.each * a.stride + row % a.each] != kElsewhere) continue;
    a.out.Put(row, column, __ldcv(a.from.Row<float>(row) + column));
  }
  if (!first) return;
  const auto capped = [](int64_t ns) { return static_cast<int32_t>(ns < 0 ? 0 : ns > INT32_MAX ? INT32_MAX : ns); };
  StoreToHost(a.mail.words + kSpanWord, capped(began - *reinterpret_cast<int64_t*>(a.mail.state + kAskedAtState)));
  StoreToHost(a.mail.words + kCameWord, a.mail.state[kCameState]);
  a.mail.state[kTakenState] = a.mail.state[kAskedState];
}

}  // namespace

void Launch(const AskHostOp& op, Run& run) {
  AskArguments a{};
  a.from = RowView(op.from);
  a.to = RowView(op.to);
  a.rows = op.from.shape[0];
  a.columns = op.from.shape[1];
  a.job = op.job;
  a.mail = MailArguments(op.mail);
  a.fault = run.fault();
  Overlapped(AskOfHost, dim3(1), kAskThreads, run, a);
}

void Launch(const TakeHostOp& op, Run& run) {
  TakeArguments a{};
  a.out = RowView(op.out);
  a.from = RowView(op.from);
  a.rows = op.out.shape[0];
  a.columns = op.out.shape[1];
  if (op.choices.data) {
    a.choices = reinterpret_cast<const int32_t*>(op.choices.data);
    a.each = op.choices.shape[1];
    a.stride = op.choices.strides[0];
  }
  a.mail = MailArguments(op.mail);
  a.fault = run.fault();
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((a.rows * a.columns + kThreads - 1) / kThreads, kMostTakeBlocks));
  Overlapped(TakeFromHost, dim3(std::max(1u, blocks)), kThreads, run, a);
}

}  // namespace zi::cuda
