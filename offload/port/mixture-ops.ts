// Operations of mixtures of experts: who is chosen, how the chosen ones come to where they are computed, and products with them.
// T tokens, k chosen experts of each, E experts.

import type { FilePieces } from './file-pieces.js';
import type { AsideExperts, HostSlots } from './host-ops.js';
import { type Effects, partsOf, type Tensor, type Weight } from './operands.js';
import type { RouteRule } from './route-rule.js';

/** What kernels sort, and launches take: see native/ops/operand.h. */
export const MOST_EXPERTS = 1024;

/** Experts in equal slots. */
export interface ExpertSlots {
  /** i32 [E]: the slot of each expert of the layer, or -1. */
  readonly table: Tensor;
  /** u8 [count, bytes]: all slots. */
  readonly memory: Tensor;
  readonly count: number;
  /** From one slot to the next. */
  readonly bytes: number;
  /** Undefined where a part lies at the same place of every slot, and is there. */
  readonly files?: SlotsOfFiles | undefined;
}

/** Experts whose home are files lie in slots as they lie there, and may still be on their way. */
export interface SlotsOfFiles {
  /** As of `bring_experts`. */
  readonly places: Tensor;
  /** The first of the weight's parts among all parts. */
  readonly firstPart: number;
  /** The piece of the layer's first expert. */
  readonly firstPiece: number;
  readonly pieces: FilePieces;
}

/** What a device knows of its slots, which experts of all layers share. A key is the place of an expert among all of them. */
export interface SlotTables {
  /** i32 [keys]: the slot of each expert, or -1. */
  readonly slotOf: Tensor;
  /** i32 [keys]: how often each was wanted lately, in units of native/ops/slots.h. */
  readonly uses: Tensor;
  /** i32 [slots]: the key of the expert in each, or -1. */
  readonly keyOf: Tensor;
  /** i32 [slots]: the call that wanted each last. */
  readonly stamps: Tensor;
  /** i32 [1]: calls until now. */
  readonly calls: Tensor;
  /** i32 [1 + 2 · E]: of the last call how many experts came, and expert and slot of each. */
  readonly list: Tensor;
}

export type MixtureOp =
  /**
   * A mixture's choice per row of f32 logits [T, E]: experts i32 [T, k], weights f32 [T, k], as the rule says. bias and expertScale
   * [E] of any float type. With a table i32 [R, k · w] and rows i32 [T], row t's experts are every w-th number of row rows[t],
   * and only their weights follow the rule.
   * A row with a logit that is no finite number gets weights of NaN, for experts that are there.
   */
  | {
      readonly op: 'route';
      experts: Tensor;
      weights: Tensor;
      logits: Tensor;
      bias: Tensor | null;
      expertScale: Tensor | null;
      table: Tensor | null;
      rows: Tensor | null;
      rule: RouteRule;
    }
  /**
   * out[t·k + j, N] = x[t] · Wₑᵀ with e = experts[t, j]; x [T, K], or [T·k, K] with a row of its own for every choice.
   * One weight per expert, alike but for where their parts lie; only those that are chosen are read. With slots, `weights` are what
   * the first slot and the last would hold, with files each part at the slot's begin.
   */
  | {
      readonly op: 'expert_linear';
      out: Tensor;
      x: Tensor;
      experts: Tensor;
      weights: readonly Weight[];
      slots?: ExpertSlots | undefined;
    }
  /**
   * Brings the experts that are chosen, i32 [T, k], into slots where they lie in none, from `home` u8 [bytes], where those of a layer
   * rest. places i32 [1 + E, 2 · P]: of each of P parts where it begins in a slot and its bytes; then of each expert where the part
   * begins at home, its low word and its high word. Of home in files, which have a piece for each expert of all layers, where it begins
   * in its slot, and 0; those are awaited by the products. There are slots for all that T tokens can choose. `uses` are halved every
   * `ageCalls` calls, those of 16 passes; native/ops/slots.h says who leaves. counts i32 [3] grow by the chosen experts that lay in a slot, by those that
   * were brought into one, and by those that the host computes: with `aside`, some of those that lie in no slot, as its mailbox says.
   * With `behind`, home is null, and rows 1 + e of places mean nothing: who comes exchanges its bytes with who leaves, where the host
   * says that it lies.
   */
  | {
      readonly op: 'bring_experts';
      experts: Tensor;
      slots: Tensor;
      /** Null where home is `files`, or `behind` the host. */
      home: Tensor | null;
      files?: FilePieces | undefined;
      places: Tensor;
      tables: SlotTables;
      counts: Tensor;
      /** The layer's first expert among those of all layers. */
      firstKey: number;
      ageCalls: number;
      aside?: AsideExperts | undefined;
      behind?: HostSlots | undefined;
    }
  /** x[t·k + j] += bias[experts[t, j]]; x [T·k, N], bias [E, N] of a float type, experts i32 [T, k]. */
  | { readonly op: 'expert_bias'; x: Tensor; experts: Tensor; bias: Tensor }
  /**
   * out[R, I] = (u + 1) · g · sigmoid(alpha · g) of pairs x [R, 2·I], with g = min(x[2i], limit) and u = x[2i + 1], at least −limit
   * and at most limit. NaN stays.
   */
  | { readonly op: 'gated_pairs'; out: Tensor; x: Tensor; alpha: number; limit: number }
  /** x[t] (+)= Σⱼ weights[t, j] · y[t·k + j], in order of j; x [T, H], y [T·k, H], weights f32 [T, k], all 1 where absent. */
  | { readonly op: 'combine'; x: Tensor; y: Tensor; weights: Tensor | null; accumulate: boolean }
  /** x[t·k + j] *= weights[t, j]; x [T·k, N], weights f32 [T, k]. */
  | { readonly op: 'scale_rows'; x: Tensor; weights: Tensor };

function tensorsOfSlots({ table, memory, files }: ExpertSlots): Tensor[] {
  return files ? [table, memory, files.places] : [table, memory];
}

export function mixtureEffects(op: MixtureOp): Effects {
  switch (op.op) {
    case 'route':
      return {
        reads: [op.logits, op.bias, op.expertScale, op.table, op.rows].filter((tensor) => tensor !== null),
        writes: [op.experts, op.weights],
      };
    case 'expert_linear':
      return {
        reads: [op.x, op.experts, ...(op.slots ? tensorsOfSlots(op.slots) : op.weights.flatMap(partsOf))],
        writes: [op.out],
      };
    case 'bring_experts': {
      const { slotOf, uses, keyOf, stamps, calls, list } = op.tables;
      const kept = [op.slots, slotOf, uses, keyOf, stamps, calls, op.counts];
      const { reads, writes } = op.aside ? asideEffects(op.aside) : { reads: [], writes: [] };
      const home = op.home ? [op.home] : [];
      const { behind } = op;
      const both = behind ? [behind.slots, behind.mail.words, behind.mail.state] : [];
      return {
        reads: [
          op.experts,
          ...home,
          op.places,
          ...kept,
          ...reads,
          ...both,
          ...(behind ? [behind.found] : []),
        ],
        writes: [...kept, list, ...writes, ...both, ...(behind ? [behind.asked] : [])],
      };
    }
    case 'expert_bias':
      return { reads: [op.x, op.experts, op.bias], writes: [op.x] };
    case 'gated_pairs':
      return { reads: [op.x], writes: [op.out] };
    case 'combine':
      return {
        reads: [op.accumulate ? op.x : null, op.y, op.weights].filter((tensor) => tensor !== null),
        writes: [op.x],
      };
    case 'scale_rows':
      return { reads: [op.x, op.weights], writes: [op.x] };
  }
}

function asideEffects({ here, there, x, hostX, weights, hostWeights, mail }: AsideExperts): Effects {
  const both = [mail.words, mail.state];
  return {
    reads: [x, ...(weights ? [weights] : []), ...both],
    writes: [here, there, hostX, ...(hostWeights ? [hostWeights] : []), ...both],
  };
}
