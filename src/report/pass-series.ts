// What passes did one after the other, in so few pieces that a run of any length can be drawn.

/** A run of passes. */
export interface SeriesPiece {
  readonly passes: number;
  readonly tokens: number;
  readonly seconds: number;
  /** On average over the devices, as is the next. */
  readonly computeSeconds: number;
  readonly stallSeconds: number;
  readonly driveBytes: number;
  readonly linkBytes: number;
}

/** Twice as many as a phone has points across for them. */
const MOST_PIECES = 480;

/** Pieces have equally many passes, but for the last: that number doubles whenever there are too many pieces. */
export class PassSeries {
  #pieces: SeriesPiece[] = [];
  #passesEach = 1;

  add(pass: SeriesPiece): void {
    const last = this.#pieces.at(-1);
    if (last && last.passes < this.#passesEach) {
      this.#pieces[this.#pieces.length - 1] = joined(last, pass);
      return;
    }
    if (this.#pieces.length === MOST_PIECES) this.#halve();
    this.#pieces.push(pass);
  }

  get pieces(): readonly SeriesPiece[] {
    return this.#pieces;
  }

  #halve(): void {
    this.#passesEach *= 2;
    const halves: SeriesPiece[] = [];
    for (const [index, piece] of this.#pieces.entries()) {
      const before = halves.at(-1);
      if (index % 2 === 1 && before) halves[halves.length - 1] = joined(before, piece);
      else halves.push(piece);
    }
    this.#pieces = halves;
  }
}

function joined(a: SeriesPiece, b: SeriesPiece): SeriesPiece {
  return {
    passes: a.passes + b.passes,
    tokens: a.tokens + b.tokens,
    seconds: a.seconds + b.seconds,
    computeSeconds: a.computeSeconds + b.computeSeconds,
    stallSeconds: a.stallSeconds + b.stallSeconds,
    driveBytes: a.driveBytes + b.driveBytes,
    linkBytes: a.linkBytes + b.linkBytes,
  };
}
