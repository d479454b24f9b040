// A store cut into pieces that fit memory: what is read at once, and what becomes of it.

import { MiB } from '../../offload/index.js';
import { matrixBytes, type Section, type StoreFile } from './store-plan.js';

/** Large reads keep a drive busy; several are in memory at once. */
const PIECE_BYTES = 32 * MiB;

export interface SourceRange {
  readonly fileIndex: number;
  readonly fileOffset: number;
  readonly sizeBytes: number;
}

/** In the order in which files are written. */
export type Piece =
  | { readonly kind: 'begin' | 'end'; readonly file: StoreFile }
  | { readonly kind: 'made'; readonly section: Section }
  | { readonly kind: 'copied'; readonly section: Section; readonly source: SourceRange }
  | {
      readonly kind: 'rows';
      readonly section: Extract<Section, { from: 'codes' }>;
      readonly source: SourceRange;
      readonly firstRow: number;
      readonly rows: number;
    };

export function* piecesOf(files: readonly StoreFile[], pieceBytes = PIECE_BYTES): Generator<Piece> {
  for (const file of files) {
    yield { kind: 'begin', file };
    for (const section of file.sections) {
      if (section.from === 'codes') yield* rowPieces(section, pieceBytes);
      else if (section.from === 'copy') yield* copyPieces(section, pieceBytes);
      else yield { kind: 'made', section };
    }
    yield { kind: 'end', file };
  }
}

function* rowPieces(section: Extract<Section, { from: 'codes' }>, pieceBytes: number): Generator<Piece> {
  const { matrix } = section;
  const { rows, fileIndex, fileOffset, inputMajor } = matrix;
  const rowBytes = matrixBytes(matrix) / rows;
  // Rows that lie side by side are read together, all of them.
  const atOnce = inputMajor ? rows : Math.max(1, Math.floor(pieceBytes / rowBytes));
  for (let firstRow = 0; firstRow < rows; firstRow += atOnce) {
    const count = Math.min(atOnce, rows - firstRow);
    const source = {
      fileIndex,
      fileOffset: fileOffset + firstRow * rowBytes,
      sizeBytes: count * rowBytes,
    };
    yield { kind: 'rows', section, source, firstRow, rows: count };
  }
}

function* copyPieces(section: Extract<Section, { from: 'copy' }>, pieceBytes: number): Generator<Piece> {
  const { fileIndex, fileOffset, sizeBytes } = section.stored;
  for (let done = 0; done < sizeBytes; done += pieceBytes) {
    const count = Math.min(pieceBytes, sizeBytes - done);
    yield {
      kind: 'copied',
      section,
      source: { fileIndex, fileOffset: fileOffset + done, sizeBytes: count },
    };
  }
}

/** Largest of each kind: what buffers are made for. */
export function bufferNeeds(files: readonly StoreFile[], pieceBytes = PIECE_BYTES) {
  const needs = { sourceBytes: 1, codeBytes: 1, scaleBytes: 1, turnedBytes: 0 };
  for (const piece of piecesOf(files, pieceBytes)) {
    if ('source' in piece) needs.sourceBytes = Math.max(needs.sourceBytes, piece.source.sizeBytes);
    if (piece.kind !== 'rows') continue;
    const { parts, matrix } = piece.section;
    if (matrix.inputMajor) needs.turnedBytes = Math.max(needs.turnedBytes, piece.source.sizeBytes);
    needs.codeBytes = Math.max(needs.codeBytes, piece.rows * parts.codeRowBytes);
    needs.scaleBytes = Math.max(needs.scaleBytes, parts.scales.sizeBytes);
  }
  return needs;
}
