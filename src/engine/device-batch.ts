// The sequences that one device works on: each joins where another has left, takes its prompt in, and goes on token by token.

import {
  assert,
  type Executor,
  hasStates,
  headRowsOf,
  NO_TOKEN,
  type PassResult,
  pagesFor,
  present,
} from '../../offload/index.js';
import { yielding, youngest } from './batch-share.js';
import { passesAhead } from './expectation.js';
import { LatePages } from './late-pages.js';
import { noteSuspects } from './not-finite.js';
import { type Feed, fillPass, inTurn } from './packing.js';
import { type Page, PageCache, type PrefixCounts } from './page-cache.js';
import { type DeviceWork, leftBehind, packWork, workAhead } from './pass-work.js';
import { isScoring, type LengthRules, type Sequence } from './sequence.js';

export interface BatchOptions {
  /** Sequences at once, where the plan has room for more. */
  readonly batchSize: number;
  /** What sequences begin with alike is computed once. */
  readonly sharesPages: boolean;
}

export class DeviceBatch {
  readonly #executor: Executor;
  readonly #sharesPages: boolean;
  /** Sequences that it works on at once, at most. */
  readonly capacity: number;
  readonly #cache: PageCache;
  readonly #late: LatePages;
  /** That no sequence here has; empty where no block keeps states. */
  readonly #freeSlots: number[];
  /**
   * There are pages for all sequences to their ends. Then each takes its own at once where no known one is lost by it:
   * neighbours travel in one copy where keys and values rest in DRAM.
   */
  readonly #holdsAll: boolean;
  /** In the order in which they came here. */
  #alive: Sequence[] = [];
  /** Who fills a page that others share already. */
  readonly #writers = new Map<Page, Sequence>();
  readonly prefixCounts: PrefixCounts = { promptTokens: 0, sharedTokens: 0 };
  /** How many may come to need more pages; undefined where that may have changed since it was counted. */
  #growing: number | undefined;
  /** By first page, between two passes: who holds it and has others that may not be known yet; absent where nobody has looked. */
  readonly #toPublish = new Map<Page, Sequence[]>();

  constructor(executor: Executor, { batchSize, sharesPages }: BatchOptions) {
    const { plan, model } = executor;
    const keepsStates = hasStates(model.caches);
    // A page says what keys and values are at its end, and nothing of the states there.
    this.#sharesPages = sharesPages && !keepsStates;
    this.#executor = executor;
    this.capacity = Math.min(batchSize, plan.sequences);
    this.#freeSlots = keepsStates ? Array.from({ length: this.capacity }, (_, slot) => slot) : [];
    this.#late = new LatePages({ ...plan, keepsPassed: this.#sharesPages && plan.kvBuffers.count === 0 });
    this.#cache = new PageCache(plan.kvPages, plan.pageTokens, this.#late);
    this.#holdsAll = plan.kvPages >= this.capacity * this.#pagesFor(plan.contextTokens);
  }

  get alive(): readonly Sequence[] {
    return this.#alive;
  }

  /** Pages that no sequence holds. */
  get freePages(): number {
    return this.#cache.freePages;
  }

  /** By horizon of the plan. */
  get freeLatePages(): readonly number[] {
    return this.#late.freePlaces;
  }

  /**
   * Takes a sequence in if there are pages now for what is known of it, and one for each that may need another in the
   * next pass. Pages of a beginning that is in the cache already are shared.
   */
  admit(sequence: Sequence): boolean {
    if (this.#alive.length >= this.capacity) return false;
    const shared = this.#share(sequence);
    const most = this.#pagesFor(sequence.mostTokens);
    const needed = Math.min(most, this.#pagesFor(sequence.knownTokens) + 1) - shared.length;
    this.#growing ??= this.#alive.filter((other) => this.#mayGrow(other)).length;
    if (!this.#cache.canTake(needed + this.#growing)) {
      this.#cache.release(shared);
      return false;
    }
    this.#alive.push(sequence);
    this.prefixCounts.promptTokens += sequence.knownTokens;
    this.prefixCounts.sharedTokens += shared.length * this.#cache.pageTokens;
    sequence.stateSlot = this.#freeSlots.pop();
    this.#hold(sequence, shared);
    this.#grow(sequence);
    if (this.#mayGrow(sequence)) this.#growing++;
    const [first] = sequence.pages;
    if (first) this.#toPublish.get(first)?.push(sequence);
    return true;
  }

  /** What comes next: a token of each sequence that goes on, and as much of the newcomers' prompts as there is room for. */
  nextWork(): DeviceWork {
    const { plan } = this.#executor;
    const work = fillPass(this.#feeds(), plan, headRowsOf(plan));
    const packed = packWork(work, plan);
    const holders = work.map(({ sequence }) => sequence);
    return { work, ...packed, microBatches: this.#late.place(packed.microBatches, holders) };
  }

  /** The pass behind one that is on its way; undefined where that depends on what it yields, or others are to join. */
  workAhead(before: DeviceWork): (() => DeviceWork) | undefined {
    if (before.work.length !== this.#alive.length) return undefined;
    this.#growing = undefined;
    const grows = (sequence: Sequence, tokens: number) => this.#grow(sequence, tokens);
    return workAhead(before, this.#executor, { grows, late: this.#late });
  }

  /**
   * Sees to it that every sequence has pages for what it is fed next. Where there are none, those that came last leave
   * with what they have: they are returned, and are computed again when they come back.
   */
  makeRoom(): Sequence[] {
    let missing = 0;
    this.#growing = undefined;
    this.#toPublish.clear();
    for (const sequence of this.#alive) {
      this.#begin(sequence);
      missing += this.#missingPages(sequence);
    }
    if (missing === 0) return [];
    if (this.#cache.canTake(missing)) {
      for (const sequence of this.#alive) this.#grow(sequence);
      return [];
    }
    const preempted: Sequence[] = [];
    for (const sequence of this.#alive.toSorted((a, b) => a.arrival - b.arrival)) {
      while (this.#alive.includes(sequence) && !this.#grow(sequence)) {
        preempted.push(this.#preempt(youngest(this.#alive)));
      }
    }
    // Whoever shared what another was still to write looks for it again.
    return this.#alive.some((sequence) => this.#isStranded(sequence))
      ? [...preempted, ...this.makeRoom()]
      : preempted;
  }

  /** Enters what the pass yielded. Returns those of which there is something to tell. */
  take(done: DeviceWork, result: PassResult): Iterable<Sequence> {
    const { tokens, nll, places } = result;
    const left = leftBehind(done);
    const { outputsOf } = done;
    const work = left.size === 0 ? done.work : done.work.filter(({ sequence }) => !left.has(sequence));
    const suspects = new Set<Sequence>();
    this.#growing = undefined;
    this.#toPublish.clear();
    for (const { sequence, slice } of work) {
      sequence.fedTokens = slice.startPosition + slice.tokens.length;
      if (sequence.suspect) suspects.add(sequence);
    }
    if (places) noteSuspects(work, places);
    const grown = new Set<Sequence>();
    const promptsScored: Sequence[] = [];
    outputsOf.forEach((sequence, index) => {
      const scored = isScoring(sequence.request);
      if (sequence.finishReason !== undefined || left.has(sequence)) return;
      if (suspects.has(sequence)) {
        const isRepeated = scored ? !Number.isFinite(nll[index]) : tokens[index] === NO_TOKEN;
        if (isRepeated) present(sequence.suspect, 'suspect').isRepeated = true;
      } else if (sequence.suspect) {
        // An earlier output of this pass has made it one.
      } else if (scored) sequence.acceptLikelihood(present(nll[index], 'a likelihood per output'));
      else if (sequence.scoresPrompt) {
        if (sequence.acceptPromptLikelihood(result, index)) promptsScored.push(sequence);
      } else if (sequence.accept(present(tokens[index], 'a token per output'), result, index))
        grown.add(sequence);
    });
    // The pieces of a sequence follow each other.
    for (const [index, { sequence }] of work.entries()) {
      if (work[index + 1]?.sequence !== sequence) this.#settle(sequence, suspects);
    }
    // Whoever has just outgrown a length has keys of a shorter sequence in the cache.
    for (const sequence of grown) {
      if (sequence.knownTokens === this.#lengthRules.recomputeAtTokens) this.#restart(sequence);
    }
    return [...grown, ...promptsScored];
  }

  /**
   * Those that have ended leave, and their pages are free.
   * @param othersCome what they hold stays known as long as there is room, for requests to come
   */
  sweep(othersCome: boolean): Sequence[] {
    const ended = this.#alive.filter(({ finishReason }) => finishReason !== undefined);
    if (ended.length === 0) return ended;
    this.#growing = undefined;
    for (const sequence of ended) this.#leavePages(sequence, othersCome);
    this.#alive = this.#alive.filter(({ finishReason }) => finishReason === undefined);
    return ended;
  }

  /** Passes that the sequences here need at most, if no others join; undefined where that is not known. */
  passesLeft(): number | undefined {
    if (this.#alive.some(({ scoresPrompt }) => scoresPrompt)) return undefined;
    const missing = (sequence: Sequence) => this.#pagesFor(sequence.mostTokens) - sequence.pages.length;
    if (!this.#cache.canTake(this.#alive.reduce((sum, one) => sum + missing(one), 0))) return undefined;
    return passesAhead(this.#feeds(), this.#executor);
  }

  /** The one of a batch that came last leaves with what it has; undefined where none has to. */
  yieldOne(): Sequence | undefined {
    const some = yielding(this.#alive, this.capacity);
    if (some.length === 0) return undefined;
    return this.#preempt(youngest(some));
  }

  #preempt(sequence: Sequence): Sequence {
    this.#growing = undefined;
    this.#leavePages(sequence, true);
    this.#alive = this.#alive.filter((other) => other !== sequence);
    return sequence;
  }

  #feeds(): Feed<Sequence>[] {
    return inTurn(this.#alive.map((sequence) => this.#feedOf(sequence)));
  }

  #feedOf(sequence: Sequence): Feed<Sequence> {
    const feed = sequence.feed(this.#lengthRules);
    const last = sequence.pages[sequence.sharedPages - 1];
    if (!last || last.isWritten) return feed;
    const writer = present(this.#writers.get(last), 'writer of a page');
    return { ...feed, after: { sequence: writer, position: sequence.sharedPages * this.#cache.pageTokens } };
  }

  /** After a pass that it took part in. */
  #settle(sequence: Sequence, suspects: ReadonlySet<Sequence>): void {
    this.#noteWritten(sequence);
    if (sequence.finishReason !== undefined) return;
    const { suspect, fedTokens, knownTokens } = sequence;
    if (suspect && suspects.has(sequence)) {
      if (fedTokens === knownTokens) {
        sequence.fail(suspect.error(sequence.unknown, suspect.isRepeated, this.#executor));
      }
      return;
    }
    if (!suspect) return;
    // What it wrote may be shared by others, and is not to be written again; whoever comes now is not to read it either.
    for (const page of sequence.pages) this.#cache.forget(page);
    this.#restart(sequence);
  }

  /** Pages that are full now hold what they are known by. */
  #noteWritten(sequence: Sequence): void {
    const { pages, sharedPages } = sequence;
    for (let index = this.#fullPages(sequence.fedTokens) - 1; index >= sharedPages; index--) {
      const page = present(pages[index], 'page');
      if (page.isWritten) break;
      page.isWritten = true;
      this.#writers.delete(page);
    }
  }

  /** Makes the first `count` pages known to others, unless their keys are of this sequence alone. */
  #publish(sequence: Sequence, count: number): void {
    if (!this.#isShareable(sequence)) return;
    const { pages, publishedPages } = sequence;
    const { pageTokens } = this.#cache;
    for (let index = Math.max(publishedPages, sequence.sharedPages); index < count; index++) {
      const page = present(pages[index], 'page');
      const tokens = sequence.tokensBetween(index * pageTokens, (index + 1) * pageTokens);
      this.#cache.publish(page, pages[index - 1], tokens);
      if (!page.isWritten) this.#writers.set(page, sequence);
    }
    sequence.publishedPages = Math.max(publishedPages, count);
  }

  /** A suspect shares nothing, as it may be a shared page that is wrong. */
  #isShareable({ suspect, knownTokens, request, scoresPrompt }: Sequence): boolean {
    const { lengthDependentAfterTokens: most = Number.POSITIVE_INFINITY } = this.#lengthRules;
    // Every likelihood of scored tokens is wanted, so all of them are computed.
    return this.#sharesPages && !suspect && knownTokens <= most && !isScoring(request) && !scoresPrompt;
  }

  /**
   * The known pages that a sequence begins with, held for it. While sequences run only their first page is known, as most
   * have nothing else in common; where one more begins with it, all others' pages become known as well.
   */
  #share(sequence: Sequence): Page[] {
    if (!this.#isShareable(sequence)) return [];
    const tokens = sequence.tokensBetween(0, sequence.knownTokens);
    const first = this.#cache.first(tokens);
    if (first) this.#publishAllOf(first);
    return this.#cache.share(tokens);
  }

  #publishAllOf(first: Page): void {
    const others = this.#toPublish.get(first) ?? this.#alive.filter((other) => other.pages[0] === first);
    this.#toPublish.set(first, []);
    for (const other of others) {
      // Whoever has just begun, or got another token, may not have all of its pages yet.
      this.#publish(other, Math.min(this.#fullPages(other.knownTokens), other.pages.length));
    }
  }

  /** Finds the pages that a sequence begins with, where it has none or lost them. */
  #begin(sequence: Sequence): void {
    if (this.#isStranded(sequence)) this.#restart(sequence);
    if (sequence.pages.length === 0) this.#hold(sequence, this.#share(sequence));
  }

  /** It waits for pages that nobody writes any more. Pages are written in order, so the last one tells. */
  #isStranded({ pages, sharedPages }: Sequence): boolean {
    const waits = sharedPages > 0 && !present(pages[sharedPages - 1], 'page').isWritten;
    return waits && pages.slice(0, sharedPages).some(({ isAbandoned }) => isAbandoned);
  }

  /** A sequence without pages begins with these. */
  #hold(sequence: Sequence, shared: readonly Page[]): void {
    assert(sequence.pages.length === 0, 'a sequence begins without pages');
    sequence.pages = [...shared];
    sequence.pageNumbers = shared.map(({ number }) => number);
    sequence.sharedPages = shared.length;
    sequence.publishedPages = shared.length;
    sequence.fedTokens = shared.length * this.#cache.pageTokens;
    this.#late.begin(sequence);
  }

  /** False where there are no pages for all that is known of it. */
  #grow(sequence: Sequence, tokens = sequence.knownTokens): boolean {
    const missing = this.#missingPages(sequence, tokens);
    if (missing === 0) return true;
    if (!this.#cache.canTake(missing)) return false;
    const toTheEnd = this.#pagesFor(sequence.mostTokens) - sequence.pages.length;
    const isRoomy = this.#holdsAll && toTheEnd <= this.#cache.emptyPages;
    for (let index = 0; index < (isRoomy ? toTheEnd : missing); index++) {
      const page = this.#cache.take();
      sequence.pages.push(page);
      sequence.pageNumbers.push(page.number);
    }
    // Others that begin alike need not wait until it is written to know of it.
    if (sequence.publishedPages === 0)
      this.#publish(sequence, Math.min(1, this.#fullPages(sequence.knownTokens)));
    return true;
  }

  #mayGrow({ pages, mostTokens }: Sequence): boolean {
    return pages.length < this.#pagesFor(mostTokens);
  }

  #missingPages({ knownTokens, pages }: Sequence, tokens = knownTokens): number {
    return Math.max(0, this.#pagesFor(tokens) - pages.length);
  }

  #restart(sequence: Sequence): void {
    this.#giveBack(sequence);
    sequence.fedTokens = 0;
  }

  #leavePages(sequence: Sequence, othersCome: boolean): void {
    if (othersCome) this.#publish(sequence, this.#fullPages(sequence.fedTokens));
    this.#restart(sequence);
    if (sequence.stateSlot !== undefined) this.#freeSlots.push(sequence.stateSlot);
    sequence.stateSlot = undefined;
  }

  #giveBack(sequence: Sequence): void {
    for (const page of sequence.pages.slice(sequence.sharedPages)) {
      if (page.isWritten) continue;
      this.#cache.abandon(page);
      this.#writers.delete(page);
    }
    this.#late.leave(sequence);
    this.#cache.release(sequence.pages);
    sequence.pages = [];
    sequence.pageNumbers = [];
    sequence.sharedPages = 0;
    sequence.publishedPages = 0;
  }

  #fullPages(tokens: number): number {
    return Math.floor(tokens / this.#cache.pageTokens);
  }

  get #lengthRules(): LengthRules {
    return this.#executor.model;
  }

  #pagesFor(tokens: number): number {
    return pagesFor(tokens, this.#cache.pageTokens);
  }
}
