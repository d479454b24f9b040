// One seed's world: a model, a machine, a plan, and passes of uneven work with the results they must yield.

import { present } from '../../offload/errors.js';
import { CUTS } from '../../offload/model/cut-layer.js';
import { pagesFor } from '../../offload/model/kv-cache.js';
import type { KvDType } from '../../offload/model/kv-type.js';
import { hasStates } from '../../offload/model/state-cache.js';
import { rowSlotBytes } from '../../offload/model/table-rows.js';
import type { Workload } from '../../offload/plan/input.js';
import { makePlan } from '../../offload/plan/make-plan.js';
import type { CpuCompute, Plan, PlannedLayer, Tier } from '../../offload/plan/plan.js';
import { type GatherBy, makeTransfer } from '../../offload/plan/transfer.js';
import type { MicroBatch, Pass, SequenceSlice } from '../../offload/run/pass.js';
import { LateFeeds } from '../helpers/late-feeds.js';
import { Random } from '../simulator/random.js';
import { drawPipeline } from './draw-pipeline.js';
import { slotsFor, tablesHome } from './draw-places.js';
import { Reference, type ReferenceOutput } from './reference.js';
import { drawMixture } from './toy-mixture.js';
import { type BlockKind, CONTEXT_TOKENS, makeToyModel, type ToyModel, type WeightHook } from './toy-model.js';

export interface ExpectedPass {
  readonly pass: Pass;
  /** Per device, per output. */
  readonly expected: readonly (readonly ReferenceOutput[])[];
}

export interface Scenario {
  readonly seed: number;
  readonly toy: ToyModel;
  readonly reference: Reference;
  readonly deviceCount: number;
  readonly computesInPlace: boolean;
  readonly workload: Workload;
  readonly plan: Plan;
  readonly passes: readonly ExpectedPass[];
  /** Said in every failure, so that it can be repeated and pictured. */
  readonly summary: string;
}

/** What a test fixes; the rest is drawn from the seed. */
export interface ScenarioOptions {
  readonly deviceCount?: number;
  readonly computesInPlace?: boolean;
  /** Devices have consecutive layers each, and batches follow each other through them. */
  readonly pipeline?: boolean;
  /** So many of them; default drawn. */
  readonly batches?: number;
  /** Layers at rest on devices lie there in shards. */
  readonly shards?: boolean;
  readonly tiers?: 'gpu' | 'dram' | 'nvme' | 'mixed';
  readonly blocks?: number;
  readonly passes?: number;
  readonly hostWindow?: number;
  readonly deviceWindow?: number;
  readonly output?: Workload['output'];
  readonly kvOffload?: boolean;
  /** Some blocks keep a state per sequence. */
  readonly states?: boolean;
  /** Some blocks see only the latest tokens. */
  readonly horizons?: boolean;
  /** Blocks have experts: all of them, none, or some drawn from the seed. */
  readonly mixtures?: boolean;
  /** For as few as a token chooses, for any number, or for each expert of all layers. */
  readonly slots?: 'few' | 'some' | 'all' | 'none';
  /** Where experts in slots of devices with memory of their own rest: with slots in DRAM for any number where that is the drive. */
  readonly expertHome?: 'dram' | 'drive';
  /** For as few as a token chooses, or for each of all layers; default drawn from the seed. */
  readonly dramSlots?: 'few' | 'all';
  /** Whether the host computes beside devices. */
  readonly cpuCompute?: CpuCompute;
  /** The host multiplies rows of layers in DRAM, beside one device with memory of its own. */
  readonly rows?: boolean;
  /** How layers reach several devices. */
  readonly gather?: GatherBy;
  /** Every device has work in every pass. */
  readonly busy?: boolean;
  readonly hook?: WeightHook;
}

export function drawScenario(seed: number, options: ScenarioOptions = {}): Scenario {
  const random = new Random(seed);
  // Small worlds mostly: a hazard needs few layers, and a second of testing holds more of them.
  const blocks = options.blocks ?? (random.chance(0.6) ? random.between(1, 3) : random.between(1, 7));
  // Draws of their own, so that the worlds stay what they are for a seed.
  const apart = new Random(seed + 27_644_437);
  const states = options.states ?? apart.chance(0.25);
  const keeping = Array.from({ length: blocks }, () => states && apart.chance(0.6));
  const pages = new Random(seed + 49_979_687);
  const kinds = keeping.map(
    (keeps): BlockKind => (keeps ? 'state' : pages.pick(['pages', 'pages', 'pages', 'in keys', 'shared'])),
  );
  const late = new Random(seed + 67_867_967);
  const horizons = options.horizons ?? late.chance(0.3);
  if (horizons) {
    kinds.forEach((kind, index) => {
      if (kind === 'pages' || kind === 'in keys') kinds[index] = late.pick(['window', 'chunk', kind]);
    });
  }
  const sparse = new Random(seed + 86_028_121);
  const mixtures = Array.from({ length: blocks }, () => {
    const share = options.mixtures === undefined ? sparse.pick([0, 0, 0.7]) : Number(options.mixtures);
    return sparse.chance(share) ? drawMixture(sparse) : undefined;
  });
  const toy = makeToyModel(random.fork(), blocks, {
    hook: options.hook,
    kindOf: (index) => kinds[index] ?? 'pages',
    mixtureOf: (index) => mixtures[index],
  });
  const drawnInPlace = random.chance(0.3);
  const computesInPlace = options.computesInPlace ?? (drawnInPlace && !options.pipeline);
  const drawnDevices = random.chance(0.6) ? random.between(1, 3) : random.between(1, 8);
  const deviceCount = options.deviceCount ?? drawnDevices;
  const tiers =
    options.tiers ??
    random.pick<Required<ScenarioOptions>['tiers']>(
      computesInPlace
        ? ['dram', 'nvme', 'mixed', 'mixed']
        : ['gpu', 'dram', 'nvme', 'mixed', 'mixed', 'mixed'],
    );
  const mixed: readonly Tier[] = computesInPlace ? ['dram', 'nvme'] : ['gpu', 'dram', 'nvme'];
  const workload: Workload = {
    sequences: random.between(1, 3),
    contextTokens: CONTEXT_TOKENS,
    promptTokens: random.between(1, 20),
    output: options.output ?? random.pick(['tokens', 'tokens', 'tokens', 'nll', 'logits']),
  };
  const microBatchTokens = random.chance(0.1) ? 1 : random.between(3, 8);
  const hostWindow = options.hostWindow ?? random.between(1, blocks + 1);
  const drawnKv = random.chance(0.4);
  const kvOffload = options.kvOffload ?? drawnKv;
  // A draw of its own, so that the worlds stay what they are for a seed.
  const gather = options.gather ?? new Random(seed + 1e6).pick<GatherBy>(['peer', 'nccl', 'none']);
  const kvType = new Random(seed + 31_337).pick<KvDType>(['f32', 'f16', 'e4m3', 'i8', 'u8']);
  const drawnSlots = sparse.pick(['few', 'some', 'some', 'all', 'none'] as const);
  // Whoever wants all layers on the drive wants none in slots, beside which some of each rests elsewhere.
  const wantedSlots = options.pipeline
    ? 'none'
    : (options.slots ?? (options.tiers === 'nvme' ? 'none' : drawnSlots));
  const inDram = computesInPlace && tiers === 'dram' && !options.slots;
  const expertSlots = slotsFor(toy, sparse, inDram ? 'none' : wantedSlots);
  const apartRows = new Random(seed + 122_949_823);
  const mayLeave =
    deviceCount === 1 &&
    !options.pipeline &&
    !computesInPlace &&
    expertSlots === 0 &&
    tiers !== 'gpu' &&
    tiers !== 'nvme';
  const leaves = (options.rows ?? apartRows.chance(0.5)) && mayLeave;
  const cpuCompute =
    options.cpuCompute ?? new Random(seed + 104_395_301).pick<CpuCompute>(['off', 'auto', 'only']);
  const homes = new Random(seed + 141_650_939);
  const onDrive =
    (options.expertHome ?? homes.pick(['dram', 'drive'])) === 'drive' && expertSlots > 0 && !computesInPlace;
  const base = makePlan(toy.model, workload, {
    cpuCompute: leaves ? 'auto' : onDrive ? 'off' : cpuCompute,
    offload: (expertSlots > 0 && !computesInPlace && !onDrive) || leaves ? 'dram' : 'nvme',
    ...(onDrive ? { dramSlots: slotsFor(toy, homes, options.dramSlots ?? 'some') } : {}),
    expertSlots,
    ...(leaves ? { hostRowShare: apartRows.between(0, CUTS - 1) } : {}),
    dramBudgetBytes: 1e12,
    dramBudgetName: '--dram_memory',
    deviceCount,
    computesInPlace,
    hostWindowLayers: Math.max(1, hostWindow),
    deviceWindowLayers: options.deviceWindow ?? random.between(1, blocks + 1),
    microBatchTokens,
    kvOffload,
    kvType,
    transfer: makeTransfer(gather, 'drawn'),
    // Drawn apart, so that everything else of a seed stays as it was.
    pageTokens: horizons ? late.pick([1, 2, 4, 16]) : new Random(seed + 7919).pick([4, 16, 32]),
  });
  const sharded = new Random(seed + 15_485_863);
  const drawnResident = tiers === 'dram' && random.chance(0.7);
  const allResident = drawnResident && !(computesInPlace && base.slots) && !base.slots?.behind;
  const restAll =
    tiers === 'gpu' && !computesInPlace && !onDrive && !options.pipeline && base.kvBuffers.count === 0;
  const plan: Plan = {
    ...base,
    tablesRest: restAll ? tablesHome(seed, expertSlots > 0) : undefined,
    ...(options.pipeline
      ? { pipeline: drawPipeline(new Random(seed + 160_481_183), base, toy, options.batches) }
      : {}),
    layers: base.layers.map((layer) => {
      const tier = tiers === 'mixed' ? random.pick(mixed) : tiers;
      const inShards =
        tier === 'gpu' && !options.pipeline && gather === 'peer' && deviceCount > 1 && sharded.chance(0.5);
      // Experts in slots come from DRAM, or in place from the drive.
      return layer.experts
        ? layer
        : {
            ...layer,
            tier,
            inShards: options.shards ?? inShards,
            cuttable: tier === 'dram' ? cuttableHere(layer) : undefined,
          };
    }),
    rows: base.rows && {
      ...base.rows,
      mostTokens: apartRows.between(1, base.rows.mostTokens),
      isFixed: apartRows.chance(0.4),
    },
    hostBuffers: {
      ...base.hostBuffers,
      count: allResident || hostWindow === 0 ? 0 : leaves ? Math.max(1, hostWindow) : base.hostBuffers.count,
    },
    kvBuffers: { ...base.kvBuffers, count: base.kvBuffers.count && random.between(1, base.kvBuffers.count) },
    rowCacheBytes: toy.model.tables.map((table) => {
      const slots = random.between(microBatchTokens, 2 * microBatchTokens);
      // Some have room for rows that nobody has asked for yet; drawn apart as well.
      const roomier = table.rowsFrom === 'position' && new Random(seed + 104_729).chance(0.5);
      return rowSlotBytes(table) * slots * (roomier ? 4 : 1);
    }),
  };
  const reference = new Reference(toy, plan);
  const batches = plan.pipeline?.batches;
  const passCount = options.passes ?? random.between(1, 5);
  const workers = Array.from(
    { length: batches ?? deviceCount },
    (_, device) => new Worker(seed, random, device, plan, toy),
  );
  const passes = Array.from({ length: passCount * (batches ?? 1) }, (_, index): ExpectedPass => {
    if (batches !== undefined)
      return passOf(present(workers[index % batches], 'worker'), reference, {
        ...workload,
        busy: options.busy ?? false,
      });
    const perDevice = workers.map((worker) =>
      options.busy || !random.chance(0.2) ? worker.work(workload.output, options.busy ?? false) : [],
    );
    const expected = workers.map((worker, device) => worker.expect(reference, perDevice[device] ?? []));
    // Right or wrong, and drawn apart.
    const expectsWhole = new Random(seed + 65_537 + index).chance(0.25);
    return { pass: { perDevice, expectsWhole }, expected };
  });
  const summary =
    `seed ${seed}: ${deviceCount} devices${computesInPlace ? ' in place' : `, gather ${plan.transfer.by}`}, ${plan.layers.length} layers ` +
    `(${plan.layers.map(({ tier }) => tier[0]).join('')}), windows ${plan.hostBuffers.count}/${plan.deviceBuffers.count}/${plan.kvBuffers.count}, keys and values ${plan.kvType}, ` +
    `${passCount} passes of ${workload.output}` +
    (plan.slots ? `, ${plan.slots.count} slots for ${plan.slots.keys} experts` : '') +
    (plan.slots?.behind ? `, ${plan.slots.behind.count} in DRAM behind them` : '') +
    (plan.pipeline
      ? `, ${plan.pipeline.batches} batches through stages from layers ${plan.pipeline.stages.map(({ first }) => first).join(', ')}`
      : '') +
    (plan.rows ? `, ${plan.rows.share} of ${CUTS} rows travel for up to ${plan.rows.mostTokens} tokens` : '');
  return { seed, toy, reference, deviceCount, computesInPlace, workload, plan, passes, summary };
}

/** One batch's. */
function passOf(
  worker: Worker,
  reference: Reference,
  { output, busy = false }: Workload & Pick<ScenarioOptions, 'busy'>,
): ExpectedPass {
  const microBatches = worker.work(output, busy);
  const expected = worker.expect(reference, microBatches);
  return { pass: { batch: worker.device, perDevice: [microBatches] }, expected: [expected] };
}

/** Simulated outputs depend on whole blocks of a flat matrix, so that it is never cut. */
function cuttableHere({ layout, cuttable }: PlannedLayer): readonly string[] | undefined {
  const isFlat = (key: string) =>
    layout.layer.matrices.some((matrix) => matrix.key === key && matrix.format.name === 'table4');
  return cuttable?.filter((key) => !isFlat(key));
}

interface Sequence {
  readonly pages: readonly number[];
  readonly stateSlot: number | undefined;
  length: number;
  lastOutput: number | undefined;
}

/** One device's sequences, which grow from pass to pass by what the model said. */
class Worker {
  readonly #random: Random;
  readonly device: number;
  readonly #plan: Plan;
  readonly #vocabSize: number;
  readonly #sequences: Sequence[];
  readonly #late: LateFeeds;
  /** Draws apart what was added later, so that everything else of a seed stays as it was. */
  readonly #apart: Random;
  #outputsOf: Sequence[] = [];

  constructor(seed: number, random: Random, device: number, plan: Plan, toy: ToyModel) {
    this.#random = random;
    this.#apart = new Random(seed + 15_485_863 + device);
    this.device = device;
    this.#plan = plan;
    this.#vocabSize = toy.model.vocabSize;
    this.#late = new LateFeeds(plan);
    const pages = random.shuffled(Array.from({ length: plan.kvPages }, (_, page) => page));
    const each = pagesFor(CONTEXT_TOKENS, plan.pageTokens);
    this.#sequences = Array.from({ length: plan.sequences }, (_, index) => ({
      pages: pages.slice(index * each, (index + 1) * each),
      stateSlot: hasStates(toy.model.caches) ? index : undefined,
      length: 0,
      lastOutput: undefined,
    }));
  }

  /** @param busy at least one sequence goes on */
  work(output: Workload['output'], busy: boolean): MicroBatch[] {
    const random = this.#random;
    const plan = this.#plan;
    this.#outputsOf = [];
    const groups: Piece[][] = [];
    const groupLimit = Math.ceil(plan.passTokens / plan.microBatchTokens) + plan.sequences;
    let left = plan.passTokens;
    for (const sequence of random.shuffled(this.#sequences)) {
      if (random.chance(0.25) && !(busy && groups.length === 0)) continue;
      const drawn = random.between(1, 7);
      const few = plan.slots && this.#apart.chance(0.6) ? 1 : drawn;
      let wanted = Math.min(left, CONTEXT_TOKENS - sequence.length, few);
      while (wanted > 0) {
        const count = Math.min(wanted, plan.microBatchTokens);
        const last = groups.at(-1);
        const joins =
          last &&
          last.reduce((sum, piece) => sum + piece.slice.tokens.length, count) <= plan.microBatchTokens &&
          !last.some((piece) => piece.sequence === sequence) &&
          random.chance(0.8);
        if (!joins && groups.length === groupLimit) break;
        const piece = this.#piece(sequence, count, wanted === count, output);
        if (joins) last.push(piece);
        else groups.push([piece]);
        wanted -= count;
        left -= count;
      }
    }
    const sequences = groups.flatMap((group) => group.map(({ sequence }) => sequence));
    return [
      ...this.#late.place(
        groups.map((group) => this.#pack(group)),
        sequences,
      ),
    ];
  }

  /** Runs the reference and remembers what each sequence goes on with. */
  expect(reference: Reference, microBatches: readonly MicroBatch[]): ReferenceOutput[] {
    const outputs = microBatches.flatMap((microBatch) => reference.run(this.device, microBatch));
    outputs.forEach(({ token }, index) => {
      present(this.#outputsOf[index], 'sequence').lastOutput = token;
    });
    return outputs;
  }

  #piece(sequence: Sequence, count: number, last: boolean, output: Workload['output']): Piece {
    const random = this.#random;
    const tokens = Int32Array.from({ length: count }, () => random.between(0, this.#vocabSize - 1));
    if (sequence.lastOutput !== undefined) tokens[0] = sequence.lastOutput;
    sequence.lastOutput = undefined;
    const { length: startPosition, pages, stateSlot } = sequence;
    const slice = { startPosition, tokens, pages, stateSlot };
    sequence.length += count;
    const everywhere = [...tokens.keys()].filter(() => random.chance(0.6));
    const atEnd = last && random.chance(0.85) ? [count - 1] : [];
    return { sequence, slice, outputs: output === 'nll' ? everywhere : atEnd };
  }

  #pack(group: readonly Piece[]): MicroBatch {
    const outputs: number[] = [];
    let first = 0;
    for (const { sequence, slice, outputs: wanted } of group) {
      for (const index of wanted) {
        outputs.push(first + index);
        this.#outputsOf.push(sequence);
      }
      first += slice.tokens.length;
    }
    const slices = group.map(({ slice }) => slice);
    const packed = { slices, outputs: Int32Array.from(outputs) };
    if (!this.#plan.nll) {
      const asks = !this.#plan.readLogits && this.#apart.chance(0.4);
      return asks ? { ...packed, logProbs: true } : packed;
    }
    const targets = outputs.map(() => this.#random.between(0, this.#vocabSize - 1));
    return { ...packed, targets: Int32Array.from(targets) };
  }
}

interface Piece {
  readonly sequence: Sequence;
  readonly slice: SequenceSlice;
  readonly outputs: readonly number[];
}
