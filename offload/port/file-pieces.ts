// Pieces of files that operations read by themselves.

/** Each is read into its own place in a memory when an operation wants it. */
export interface FilePieces {
  readonly id: number;
  stats(): PieceStats;
}

export interface PieceStats {
  readonly bytes: number;
  /** Time in which some of them were on their way. */
  readonly busyMs: number;
}
