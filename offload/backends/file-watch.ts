// Watches the open weight files of a run: what was computed from a file that changed meanwhile must not be given out.

import { OperatingError } from '../errors.js';
import {
  describeChange,
  type FileState,
  hasSameContent,
  isSameFile,
  stateOfDescriptor,
  stateOfPath,
} from '../port/file-state.js';

interface Watched {
  readonly path: string;
  readonly descriptor: number;
  state: FileState;
}

export class FileWatch {
  readonly #files: Watched[] = [];

  /** From now on, until its reader is closed. */
  add(path: string, descriptor: number): void {
    this.#files.push({ path, descriptor, state: stateOfDescriptor(descriptor) });
  }

  /** Throws FILE_CHANGED for a file that was opened as another one than its headers were read from. */
  expect(states: ReadonlyMap<string, FileState>): void {
    for (const { path, state } of this.#files) {
      const expected = states.get(path);
      if (!expected) continue;
      if (!isSameFile(expected, state)) throw changed(path, 'was replaced after its header had been read');
      const change = describeChange(expected, state, undefined);
      if (change) throw changed(path, change);
    }
  }

  /**
   * Throws FILE_CHANGED for the first file that was written to since it was opened. The system notes the time of a write
   * before its bytes can be read, so what was read before a check that finds nothing is what the file held at the start.
   */
  check(): void {
    for (const file of this.#files) {
      const now = this.#stateOf(file);
      if (hasSameContent(file.state, now)) continue;
      const change = describeChange(file.state, now, namedState(file.path, now));
      if (change) throw changed(file.path, change);
      file.state = now;
    }
  }

  #stateOf({ path, descriptor }: Watched): FileState {
    try {
      return stateOfDescriptor(descriptor);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      throw new OperatingError('READ_FAILED', `${path} cannot be looked at while it is in use: ${message}`, {
        cause: error,
      });
    }
  }
}

/** The file that the path leads to now; where that cannot be told, `own`, since nothing then explains a change. */
function namedState(path: string, own: FileState): FileState | undefined {
  try {
    return stateOfPath(path);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    return code === 'ENOENT' || code === 'ENOTDIR' ? undefined : own;
  }
}

function changed(path: string, change: string): OperatingError {
  return new OperatingError(
    'FILE_CHANGED',
    `${path} ${change}, while its weights were in use: what was made since is not given out; start again when the ` +
      'file is complete',
  );
}
