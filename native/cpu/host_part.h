// The device's side of a mailbox where the device is the processor as well: asks as stream work, and waits for what was asked.
#pragma once
#include "cpu/kernels.h"

namespace zi {

/// Copies rows of f32, [rows, columns] each.
void CopyRows(const View& from, const View& to);

/// How many of so many missing experts the host computes.
int32_t PlannedShare(const Mail& mail, int32_t missing, int32_t calls);
/// Rates decide that, and are to stay known.
bool IsBalanced(const Mail& mail);
/// What the host's rates are made of: how many come to the device meanwhile, and how many the host computes.
void NoteAsked(const Mail& mail, int32_t came, int32_t aside);
/// Call AwaitHost before anything of the next job is written.
void Ask(const Mail& mail, int64_t job);
/// Throws where the host failed in what it was asked for.
void AwaitHost(const Mail& mail, const CancelFlag& cancel);

/// Waits for a word of host memory that a job writes while it goes on; sleeps, since that may take as long as a drive does. Throws as
/// AwaitHost.
void AwaitWord(const Mail& mail, const int32_t* word, int32_t value, const CancelFlag& cancel);

void AskHost(const AskHostOp& op, Run& run);
void TakeHost(const TakeHostOp& op, Run& run);

}  // namespace zi
