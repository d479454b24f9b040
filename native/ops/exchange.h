// What a device and a thread of its host tell each other of experts whose home is the drive, and of which some lie in slots of the
// host's memory. Words are i32 of page-locked memory.
//
// The device says who comes to it and who leaves for that. The host looks up where the coming ones lie, reads those that lie nowhere
// into slots of its own, and says of each where its parts are as soon as they are there. The device then exchanges bytes with the
// host's slot, so that who leaves lies where the other lay, and nobody lies twice.
#pragma once
#include <cstdint>

#include "ops/operand.h"

namespace zi {

/// What is asked begins with these, and goes on with kAskedEach words for each expert that comes.
enum AskedWord : int { kAskedCount = 0, kAskedCalls = 1, kAskedFirstKey = 2, kAskedHead = 3 };
/// Keys are places among the experts of all layers; kLeavesKey is negative where a slot of the device was free.
enum AskedEach : int { kComesKey = 0, kComesUses = 1, kLeavesKey = 2, kLeavesUses = 3, kLeavesStamp = 4, kAskedEach = 5 };

/// A row of what was found, in the order in which experts are there; behind these, of each part the low and the high word of where
/// it begins in the host's slots. kFoundTurn is written last: the calls of the asking.
enum FoundWord : int { kFoundTurn = 0, kFoundWhich = 1, kFoundSwaps = 2, kFoundHead = 3 };

/// A word of the device's, behind those of MailState: how many were found of this asking, for blocks that do not look at the host.
constexpr int kFoundState = 7;

/// On the host: finds the experts that a device asks for in slots, or reads them into some.
struct FindExpertsOp {
  /// As of HostSlots.
  View asked, found, slots;
  /// i32 [keys, parts]: where parts begin in a slot that has the file's own bytes. i32 [keys]: those that are alike have parts of the
  /// same sizes, and others do not exchange places.
  View begins, alike;
  /// i32 [keys]: the slot that each lies in or -1.
  View slot_of;
  /// i32 [slots]: whose expert each holds or -1, how often it was wanted and by which call last, and whose bytes were read into it last.
  View key_of, uses, stamps, read_as;
  /// i32 [1]: calls until now; i32 [2]: experts that lay in a slot, and that were read.
  View calls, counts;
  int64_t age_calls;
  IoPieces* files;
};

}  // namespace zi
