// A device's pages of keys and values: taken as sequences grow, shared by those that begin alike, kept until room is wanted.

import { assert, present } from '../../offload/index.js';
import { FirstCome } from './first-come.js';
import { type LatePage, LatePages } from './late-pages.js';

/** A page that somebody holds, or whose content is still known. */
export interface Page extends LatePage {
  /** The same in every decoder block that sees whole contexts. */
  readonly number: number;
  /** How many sequences that hold it. */
  holders: number;
  /** What it can be found by; undefined for a page that nobody may share. */
  known: KnownPage | undefined;
  /** Tells contents apart, where a number is used again; pages that follow are found by it. */
  contentId: number;
  /** False while the sequence that found no such page still computes it. */
  isWritten: boolean;
  /** Whoever was to write it has left: those that share it look for another. */
  isAbandoned: boolean;
}

interface KnownPage {
  /** Content of the page before it. */
  readonly before: number;
  readonly tokens: Int32Array;
  /** A hash of both. */
  readonly hash: number;
}

/** What comes before a sequence's first page. */
const NO_PAGE = 0;

/** Sums over sequences that were admitted, those that came back among them. */
export interface PrefixCounts {
  promptTokens: number;
  /** Whose keys and values were in the cache. */
  sharedTokens: number;
}

/**
 * Pages are equal runs of `pageTokens` positions. A full page is known by its tokens and all that come before them, so that
 * sequences with the same beginning hold the same pages. Nobody writes to a page that is full, so none is ever copied.
 */
export class PageCache {
  readonly pageCount: number;
  readonly pageTokens: number;
  /** Numbers of pages without any content. */
  readonly #empty: number[];
  /** By the hash of what they hold and of what comes before. Of two with one hash, which is rare, one is known. */
  readonly #byHash = new Map<number, Page>();
  /** Known pages that nobody holds; the first is given up first. */
  readonly #unheld = new FirstCome<Page>();
  /** What blocks that see only the latest tokens have of each page. */
  readonly #late: LatePages;
  #lastContentId = NO_PAGE;

  constructor(
    pageCount: number,
    pageTokens: number,
    late = new LatePages({ horizons: [], pageTokens, keepsPassed: false }),
  ) {
    this.pageCount = pageCount;
    this.#late = late;
    this.pageTokens = pageTokens;
    this.#empty = Array.from({ length: pageCount }, (_, index) => pageCount - 1 - index);
  }

  /** Pages that nobody holds. */
  get freePages(): number {
    return this.#empty.length + this.#unheld.size;
  }

  /** Pages whose content nobody knows. */
  get emptyPages(): number {
    return this.#empty.length;
  }

  /**
   * The known pages that `tokens` begin with and that a sequence can go on behind, held once more for the caller. At
   * least one token is left over, as something has to be computed for the next.
   */
  share(tokens: Int32Array): Page[] {
    const known = this.#known(tokens);
    const pages = known.slice(0, this.#late.usable(known));
    for (const page of pages) this.#hold(page);
    return pages;
  }

  /** The known page that `tokens` begin with, for the caller to look at. */
  first(tokens: Int32Array): Page | undefined {
    return tokens.length > this.pageTokens ? this.#find(NO_PAGE, tokens, 0) : undefined;
  }

  #known(tokens: Int32Array): Page[] {
    const pages: Page[] = [];
    let before = NO_PAGE;
    for (let end = this.pageTokens; end < tokens.length; end += this.pageTokens) {
      const page = this.#find(before, tokens, end - this.pageTokens);
      if (!page) break;
      pages.push(page);
      before = page.contentId;
    }
    return pages;
  }

  canTake(pages: number): boolean {
    return pages <= this.freePages;
  }

  /** A page for the caller alone; known ones that nobody holds are given up for it. Ask `canTake` first. */
  take(): Page {
    const number = this.#empty.pop() ?? this.#giveUp();
    return {
      number,
      holders: 1,
      known: undefined,
      contentId: ++this.#lastContentId,
      isWritten: false,
      isAbandoned: false,
      late: this.#late.newPlaces(),
    };
  }

  /**
   * Makes a page known by its tokens: all of a full page's, after those of `before`. Another page of the same content
   * stays the one that is found, and what follows this one is found below it as soon as it is written: who shares pages
   * waits for the last of them, so none may lie below one that is written later.
   * @param tokens of which nobody changes any
   */
  publish(page: Page, before: Page | undefined, tokens: Int32Array): void {
    assert(tokens.length === this.pageTokens, 'a page that is known is full');
    if (page.known !== undefined) return;
    const contentBefore = before?.contentId ?? NO_PAGE;
    const hash = hashOf(contentBefore, tokens, 0, this.pageTokens);
    const found = this.#byHash.get(hash);
    if (found?.isWritten && isContent(found, contentBefore, tokens, 0)) page.contentId = found.contentId;
    if (found) return;
    page.known = { before: contentBefore, tokens, hash };
    this.#byHash.set(hash, page);
  }

  /** What its holders have said of it does not hold any more: nobody else is to find it. */
  abandon(page: Page): void {
    page.isAbandoned = true;
    this.forget(page);
  }

  /** Nobody finds it any more; those that hold it go on. */
  forget(page: Page): void {
    if (page.known !== undefined) this.#byHash.delete(page.known.hash);
    page.known = undefined;
  }

  /** Gives back what a sequence held, in its order. The end is given up before the beginning, which more may share. */
  release(pages: readonly Page[]): void {
    for (const page of pages.toReversed()) {
      assert(page.holders > 0, 'a page is given back once by each holder');
      if (--page.holders > 0) continue;
      if (page.known !== undefined && page.isWritten) this.#unheld.add(page);
      else {
        this.forget(page);
        this.#late.drop(page);
        this.#empty.push(page.number);
      }
    }
    assert(this.freePages <= this.pageCount, 'pages are given back once');
  }

  #hold(page: Page): void {
    page.holders++;
    this.#unheld.delete(page);
  }

  #giveUp(): number {
    const given = present(this.#unheld.first, 'free page');
    this.#unheld.delete(given);
    this.forget(given);
    this.#late.drop(given);
    return given.number;
  }

  /** The known page of the tokens from `start` on, after the content `before`. */
  #find(before: number, tokens: Int32Array, start: number): Page | undefined {
    const page = this.#byHash.get(hashOf(before, tokens, start, this.pageTokens));
    return page && isContent(page, before, tokens, start) ? page : undefined;
  }
}

function isContent({ known }: Page, before: number, tokens: Int32Array, start: number): boolean {
  return known?.before === before && known.tokens.every((token, index) => token === tokens[start + index]);
}

/** A hash of 32 bits; whatever is found by it is compared. */
function hashOf(before: number, tokens: Int32Array, start: number, count: number): number {
  let hash = before ^ 0x9e3779b9;
  for (let index = start; index < start + count; index++) {
    hash = Math.imul(hash ^ (tokens[index] ?? 0), 0x85ebca6b);
    hash ^= hash >>> 15;
  }
  return hash;
}
