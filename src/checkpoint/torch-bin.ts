// A PyTorch .bin checkpoint: which tensors it holds and where their bytes lie. Tensor data is never read.
//
// torch.save (since 1.6) writes a zip file without compression: `<prefix>/data.pkl` describes the tensors, and
// `<prefix>/data/<key>` holds the bytes of one storage each, aligned to 64. So weights can be streamed in place.

import { OperatingError } from '../../offload/index.js';
import { type ByteSource, withFile } from '../files/byte-source.js';
import { show } from '../files/json-file.js';
import { DTYPE_BITS, type HeaderTensor } from './safetensors.js';
import { interpretPickle, MAX_PICKLE_BYTES } from './torch-pickle.js';
import { Mapping, PickledTensor, type Stored } from './torch-values.js';
import { dataOffsetOf, readZipDirectory, type ZipDirectory, type ZipEntry } from './zip-directory.js';

export interface TorchHeader {
  readonly path: string;
  /** Size of the whole file. */
  readonly sizeBytes: number;
  /** Tied tensors share their bytes. */
  readonly tensors: ReadonlyMap<string, HeaderTensor>;
}

/** Where the data of a file within the zip file lies. */
interface Range {
  readonly name: string;
  readonly headerOffset: number;
  readonly begin: number;
  readonly end: number;
}

/** Reads and checks what describes one file. Errors: NOT_FOUND, BAD_TORCH_FILE, READ_FAILED, FILE_CHANGED. */
export function readTorchHeader(path: string): Promise<TorchHeader> {
  return withFile(path, 'BAD_TORCH_FILE', parseTorchFile);
}

/** The same for any source of bytes. */
export async function parseTorchFile(source: ByteSource): Promise<TorchHeader> {
  await checkFormat(source);
  const directory = await readZipDirectory(source);
  const archive = new Archive(source, directory);
  await archive.checkByteOrder();
  const pickle = await archive.bytesOf('data.pkl', MAX_PICKLE_BYTES);
  const state = interpretPickle(pickle, source.path);
  if (!(state instanceof Mapping)) throw bad(source, 'holds something else than a dictionary of tensors');
  const tensors = new Map<string, HeaderTensor>();
  for (const [name, tensor] of state.entries) {
    if (typeof name !== 'string' || !(tensor instanceof PickledTensor)) {
      throw bad(source, `holds ${show(name)}, which is no tensor: save the state dictionary alone`);
    }
    tensors.set(name, await archive.locate(name, tensor));
  }
  archive.checkOverlap();
  return { path: source.path, sizeBytes: source.sizeBytes, tensors };
}

function bad(source: ByteSource, problem: string): OperatingError {
  return new OperatingError('BAD_TORCH_FILE', `${source.path} ${problem}`);
}

/** Says what a file is that is no zip file, as far as the first bytes tell. */
async function checkFormat(source: ByteSource): Promise<void> {
  const magic = await source.read(0, Math.min(4, source.sizeBytes));
  if (magic.toString('latin1') === 'PK\x03\x04') return;
  if (magic.toString('latin1') === 'vers') {
    throw bad(source, 'is a Git LFS pointer, not the weights: fetch them with `git lfs pull`');
  }
  if (magic[0] === 0x80) {
    throw bad(
      source,
      'has the format of PyTorch before 1.6, which is not supported: load it with a newer PyTorch and save it again, ' +
        'best as safetensors',
    );
  }
  throw bad(
    source,
    `is no PyTorch file: it has ${source.sizeBytes} bytes and does not begin like a zip file`,
  );
}

/** The files within the zip file that belong to the checkpoint. */
class Archive {
  readonly #prefix: string;
  readonly #ranges = new Map<string, Range>();

  constructor(
    private readonly source: ByteSource,
    private readonly directory: ZipDirectory,
  ) {
    const pickles = [...directory.entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
    if (pickles.length !== 1) {
      throw bad(source, `holds ${pickles.length} files named data.pkl: torch.save writes one`);
    }
    this.#prefix = pickles[0]?.slice(0, -'data.pkl'.length) ?? '';
  }

  /** A file that is small. */
  async bytesOf(name: string, maxBytes: number): Promise<Buffer> {
    const { begin, end } = await this.#range(name);
    if (end - begin > maxBytes) {
      throw bad(this.source, `has ${end - begin} bytes of ${name}, above the limit of ${maxBytes}`);
    }
    return this.source.read(begin, end - begin);
  }

  async checkByteOrder(): Promise<void> {
    if (!this.#entry('byteorder')) return;
    const order = (await this.bytesOf('byteorder', 64)).toString('latin1');
    if (order !== 'little') {
      throw bad(this.source, `stores numbers in byte order ${show(order)}; supported: little`);
    }
  }

  async locate(name: string, tensor: PickledTensor): Promise<HeaderTensor> {
    const { storage, dtype, offsetElements, shape } = tensor;
    const refuse = (problem: string) => bad(this.source, `${problem}: tensor ${show(name)}`);
    const bytes = (DTYPE_BITS[dtype] ?? 0) / 8;
    const elements = shape.includes(0) ? 0 : shape.reduce((product, size) => product * size, 1);
    if (!Number.isSafeInteger(elements * bytes)) throw refuse(`has a size ${show(shape)} beyond 2^53 bytes`);
    if (!isContiguous(tensor)) {
      throw refuse(
        `stores a view with strides ${show(tensor.strides)} for shape ${show(shape)}; make it contiguous and save again`,
      );
    }
    const { begin, end } = await this.#storageRange(storage);
    const endElements = (end - begin) / bytes;
    if (offsetElements + elements > endElements) {
      throw refuse(`ends at element ${offsetElements + elements} of a storage of ${endElements}`);
    }
    const fileOffset = begin + offsetElements * bytes;
    return { name, dtype, shape, fileOffset, sizeBytes: elements * bytes };
  }

  /** No two files within the zip file may share bytes: one of the two would not be what it says. */
  checkOverlap(): void {
    const ordered = [...this.#ranges.values()].sort((a, b) => a.headerOffset - b.headerOffset);
    for (const [i, { name, headerOffset }] of ordered.entries()) {
      const before = ordered[i - 1];
      if (before && headerOffset < before.end) {
        throw bad(this.source, `stores ${show(name)} and ${show(before.name)} in the same bytes`);
      }
    }
  }

  async #storageRange({ key, dtype, elements }: Stored): Promise<Range> {
    const range = await this.#range(`data/${key}`);
    const bytes = elements * ((DTYPE_BITS[dtype ?? 'U8'] ?? 0) / 8);
    if (range.end - range.begin !== bytes) {
      throw bad(
        this.source,
        `stores ${range.end - range.begin} bytes in data/${show(key)}, but ${elements} elements need ${bytes}`,
      );
    }
    return range;
  }

  async #range(name: string): Promise<Range> {
    const known = this.#ranges.get(name);
    if (known) return known;
    const entry = this.#entry(name);
    if (!entry) throw bad(this.source, `lacks ${show(this.#prefix + name)}, which its pickle names`);
    const begin = await dataOffsetOf(this.source, this.directory, entry);
    const range = { name, headerOffset: entry.headerOffset, begin, end: begin + entry.sizeBytes };
    this.#ranges.set(name, range);
    return range;
  }

  #entry(name: string): ZipEntry | undefined {
    return this.directory.entries.get(this.#prefix + name);
  }
}

/** Whether elements follow one another in the order of the shape. Sizes of 1 may have any stride. */
function isContiguous({ shape, strides }: PickledTensor): boolean {
  if (shape.includes(0)) return true;
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const size = shape[axis] ?? 1;
    if (size !== 1 && strides[axis] !== expected) return false;
    expected *= size;
  }
  return true;
}
