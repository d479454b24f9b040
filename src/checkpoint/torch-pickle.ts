// Interprets the pickle of a PyTorch checkpoint as data: nothing is imported, called or constructed but plain tensors.
//
// Source: CPython's pickletools.py for the opcodes. Only those that torch.save writes for a dictionary of tensors are
// known here; each adds at most one value per byte read, and values are never walked recursively, so that time and
// memory stay proportional to the file's size, which is bounded.

import { MAX_NAME_BYTES, PickleMachine } from './pickle-machine.js';
import { Mapping, named, reduce, Stored, Tuple, type Value } from './torch-values.js';

/** A tensor takes some 300 bytes and 40 opcodes: enough for 100,000 tensors in one file. */
export const MAX_PICKLE_BYTES = 64 * 1024 * 1024;
const MAX_STEPS = 4_000_000;
const PROTO = 0x80;
const STOP = 0x2e;
const NO_ITEMS = new Tuple([]);

/** What the pickle stands for. Errors: BAD_TORCH_FILE. */
export function interpretPickle(bytes: Uint8Array, path: string): Value {
  const machine = new PickleMachine(bytes, path);
  if (bytes.length > MAX_PICKLE_BYTES) {
    throw machine.bad(`takes ${bytes.length} bytes, above the limit of ${MAX_PICKLE_BYTES}`);
  }
  if (machine.byte() !== PROTO) throw machine.bad('does not begin with the opcode PROTO');
  const version = machine.byte();
  if (version < 2 || version > 5) throw machine.bad(`has protocol ${version}; supported: 2 to 5`);
  for (let step = 0; step < MAX_STEPS; step++) {
    const opcode = machine.byte();
    if (opcode === STOP) {
      const [value = null] = machine.pop(1);
      if (machine.leftBytes > 0) throw machine.bad(`goes on for ${machine.leftBytes} bytes after its STOP`);
      return value;
    }
    const run = OPCODES.get(opcode);
    if (!run) {
      throw machine.bad(`uses the opcode ${opcodeName(opcode)}, which no dictionary of tensors needs`);
    }
    run(machine);
  }
  throw machine.bad(`takes more than ${MAX_STEPS} steps`);
}

const OPCODES: ReadonlyMap<number, (machine: PickleMachine) => void> = new Map<
  number,
  (machine: PickleMachine) => void
>([
  [0x95, (m) => void m.next(8)], // FRAME: a hint for readers of streams
  [0x28, (m) => m.mark()], // MARK
  [0x4e, (m) => m.push(null)], // NONE
  [0x88, (m) => m.push(true)], // NEWTRUE
  [0x89, (m) => m.push(false)], // NEWFALSE
  [0x4b, (m) => m.push(m.byte())], // BININT1
  [0x4d, (m) => m.push(m.next(2).readUInt16LE())], // BININT2
  [0x4a, (m) => m.push(m.next(4).readInt32LE())], // BININT
  [0x8a, (m) => m.push(m.long(m.byte()))], // LONG1
  [0x47, (m) => m.push(m.next(8).readDoubleBE())], // BINFLOAT
  [0x58, (m) => m.push(m.text(m.next(4).readUInt32LE()))], // BINUNICODE
  [0x8c, (m) => m.push(m.text(m.byte()))], // SHORT_BINUNICODE
  [0x7d, (m) => m.push(new Mapping())], // EMPTY_DICT
  [0x73, (m) => setItems(m, m.pop(2))], // SETITEM
  [0x75, (m) => setItems(m, m.popToMark())], // SETITEMS
  [0x29, (m) => m.push(NO_ITEMS)], // EMPTY_TUPLE
  [0x85, (m) => m.push(new Tuple(m.pop(1)))], // TUPLE1
  [0x86, (m) => m.push(new Tuple(m.pop(2)))], // TUPLE2
  [0x87, (m) => m.push(new Tuple(m.pop(3)))], // TUPLE3
  [0x74, (m) => m.push(new Tuple(m.popToMark()))], // TUPLE
  [0x71, (m) => m.remember(m.byte())], // BINPUT
  [0x72, (m) => m.remember(m.next(4).readUInt32LE())], // LONG_BINPUT
  [0x94, (m) => m.remember()], // MEMOIZE
  [0x68, (m) => m.recall(m.byte())], // BINGET
  [0x6a, (m) => m.recall(m.next(4).readUInt32LE())], // LONG_BINGET
  [0x63, (m) => pushNamed(m, m.line(), m.line())], // GLOBAL
  [0x93, (m) => pushNamed(m, ...m.pop(2))], // STACK_GLOBAL
  [0x51, (m) => pushStorage(m)], // BINPERSID
  [0x52, (m) => call(m)], // REDUCE
  [0x62, (m) => build(m)], // BUILD
]);

/** Opcodes that Python knows and a dictionary of tensors has no use for; for messages. */
const REFUSED_NAMES: Readonly<Record<string, string>> = {
  '30': 'POP',
  '31': 'POP_MARK',
  '32': 'DUP',
  '42': 'BINBYTES',
  '43': 'SHORT_BINBYTES',
  '46': 'FLOAT',
  '49': 'INT',
  '4c': 'LONG',
  '50': 'PERSID',
  '53': 'STRING',
  '54': 'BINSTRING',
  '55': 'SHORT_BINSTRING',
  '56': 'UNICODE',
  '5d': 'EMPTY_LIST',
  '61': 'APPEND',
  '64': 'DICT',
  '65': 'APPENDS',
  '67': 'GET',
  '69': 'INST',
  '6c': 'LIST',
  '6f': 'OBJ',
  '70': 'PUT',
  '80': 'PROTO',
  '81': 'NEWOBJ',
  '82': 'EXT1',
  '83': 'EXT2',
  '84': 'EXT4',
  '8b': 'LONG4',
  '8d': 'BINUNICODE8',
  '8e': 'BINBYTES8',
  '8f': 'EMPTY_SET',
  '90': 'ADDITEMS',
  '91': 'FROZENSET',
  '92': 'NEWOBJ_EX',
  '96': 'BYTEARRAY8',
  '97': 'NEXT_BUFFER',
  '98': 'READONLY_BUFFER',
};

function opcodeName(opcode: number): string {
  const hex = opcode.toString(16).padStart(2, '0');
  return REFUSED_NAMES[hex] ?? `0x${hex}`;
}

function setItems(machine: PickleMachine, items: readonly Value[]): void {
  const target = machine.top();
  if (!(target instanceof Mapping) || items.length % 2 !== 0)
    throw machine.bad('sets items of no dictionary');
  for (let i = 0; i < items.length; i += 2) {
    const key = items[i];
    if (typeof key !== 'string' && typeof key !== 'number') throw machine.bad('has a key that is no text');
    if (!target.add(key, items[i + 1] ?? null)) {
      throw machine.bad(`names ${JSON.stringify(key).slice(0, MAX_NAME_BYTES)} twice`);
    }
  }
}

function pushNamed(machine: PickleMachine, module?: Value, name?: Value): void {
  if (typeof module !== 'string' || typeof name !== 'string') throw machine.bad('names a global by no text');
  const found = named(module, name);
  if (!found) {
    const shown = JSON.stringify(`${module}.${name}`.slice(0, MAX_NAME_BYTES));
    throw machine.bad(`refers to ${shown}, which is no part of a dictionary of tensors`);
  }
  machine.push(found);
}

/** torch.save's persistent ids are all `('storage', type, key, location, elements)`. */
function pushStorage(machine: PickleMachine): void {
  const [id] = machine.pop(1);
  const [kind, type, key, , elements] = id instanceof Tuple && id.items.length === 5 ? id.items : [];
  const storage = kind === 'storage' ? Stored.of(type, key, elements) : undefined;
  if (!storage) throw machine.bad('has a persistent id that is no tensor storage');
  machine.push(storage);
}

function call(machine: PickleMachine): void {
  const [callable, args] = machine.pop(2);
  const result = args instanceof Tuple ? reduce(callable, args.items) : undefined;
  if (result === undefined) {
    throw machine.bad(`calls ${describe(callable)} with arguments that build no tensor`);
  }
  machine.push(result);
}

/** Python sets attributes here. Of a state dictionary that is `_metadata`, versions of modules: not needed. */
function build(machine: PickleMachine): void {
  const [target, state] = machine.pop(2);
  if (!(target instanceof Mapping) || !(state instanceof Mapping)) {
    throw machine.bad(`sets attributes of ${describe(target)}; only those of a dictionary may be set`);
  }
  machine.push(target);
}

function describe(value: Value | undefined): string {
  return value !== null && typeof value === 'object' ? value.description : 'a plain value';
}
