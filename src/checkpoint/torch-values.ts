// The values that a checkpoint's pickle may hold, the names it may use for them, and what calling a name makes.

export class Tuple {
  constructor(readonly items: readonly Value[]) {}

  get description(): string {
    return 'a tuple';
  }
}

export class Mapping {
  /** Made with the first entry: a hostile file could hold millions of empty ones. */
  #entries: Map<string | number, Value> | undefined;

  /** False when the key is there already. */
  add(key: string | number, value: Value): boolean {
    this.#entries ??= new Map();
    if (this.#entries.has(key)) return false;
    this.#entries.set(key, value);
    return true;
  }

  get description(): string {
    return 'a dictionary';
  }

  get entries(): ReadonlyMap<string | number, Value> {
    return this.#entries ?? new Map();
  }
}

/** A run of bytes of its own in the zip file: `<prefix>/data/<key>`. */
export class Stored {
  readonly description = 'a storage';
  private constructor(
    readonly key: string,
    /** As safetensors spells it; undefined for untyped bytes, whose type stands in the tensor. */
    readonly dtype: string | undefined,
    /** Elements, or bytes where the type is undefined. */
    readonly elements: number,
  ) {}

  static of(
    type: Value | undefined,
    key: Value | undefined,
    elements: Value | undefined,
  ): Stored | undefined {
    if (!(type instanceof Named) || type.kind !== 'storage' || typeof key !== 'string') return undefined;
    return isCount(elements) ? new Stored(key, type.dtype, elements) : undefined;
  }
}

export class PickledTensor {
  readonly description = 'a tensor';
  readonly storage: Stored;
  readonly dtype: string;
  readonly offsetElements: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];

  constructor(view: Omit<PickledTensor, 'description'>) {
    this.storage = view.storage;
    this.dtype = view.dtype;
    this.offsetElements = view.offsetElements;
    this.shape = view.shape;
    this.strides = view.strides;
  }
}

/** Something that Python would import. Here it is a name and nothing else. */
export class Named {
  constructor(
    readonly description: string,
    readonly kind: 'callable' | 'storage' | 'dtype',
    readonly dtype?: string,
  ) {}
}

export type Value = null | boolean | number | string | Tuple | Mapping | Stored | PickledTensor | Named;

const STORAGE_TYPES: Readonly<Record<string, string>> = {
  DoubleStorage: 'F64',
  FloatStorage: 'F32',
  HalfStorage: 'F16',
  BFloat16Storage: 'BF16',
  LongStorage: 'I64',
  IntStorage: 'I32',
  ShortStorage: 'I16',
  CharStorage: 'I8',
  ByteStorage: 'U8',
  BoolStorage: 'BOOL',
  ComplexFloatStorage: 'C64',
};

/** Types that came after typed storages: `_rebuild_tensor_v3` names them. */
const TENSOR_TYPES: Readonly<Record<string, string>> = {
  float8_e4m3fn: 'F8_E4M3',
  float8_e5m2: 'F8_E5M2',
  float8_e4m3fnuz: 'F8_E4M3FNUZ',
  float8_e5m2fnuz: 'F8_E5M2FNUZ',
  float8_e8m0fnu: 'F8_E8M0',
  uint16: 'U16',
  uint32: 'U32',
  uint64: 'U64',
};

const KNOWN: ReadonlyMap<string, Named> = new Map(
  [
    ...['torch._utils _rebuild_tensor_v2', 'torch._utils _rebuild_tensor_v3'],
    ...['torch._utils _rebuild_parameter', 'collections OrderedDict'],
  ]
    .map((name): [string, Named] => [name, new Named(name.replace(' ', '.'), 'callable')])
    .concat(
      Object.entries(STORAGE_TYPES).map(([name, dtype]) => [
        `torch ${name}`,
        new Named(`torch.${name}`, 'storage', dtype),
      ]),
      Object.entries(TENSOR_TYPES).map(([name, dtype]) => [
        `torch ${name}`,
        new Named(`torch.${name}`, 'dtype', dtype),
      ]),
      [['torch.storage UntypedStorage', new Named('torch.storage.UntypedStorage', 'storage')]],
    ),
);

/** The name that a pickle may use; undefined for any other, which nobody looks up. */
export function named(module: string, name: string): Named | undefined {
  return KNOWN.get(`${module} ${name}`);
}

/** What Python's `callable(*args)` would be; undefined when that is not one of the four calls known here. */
export function reduce(callable: Value | undefined, args: readonly Value[]): Value | undefined {
  switch (callable instanceof Named ? callable.description : '') {
    case 'collections.OrderedDict':
      return args.length === 0 ? new Mapping() : undefined;
    case 'torch._utils._rebuild_parameter': // (data, requires_grad, backward_hooks)
      return args.length === 3 && args[0] instanceof PickledTensor ? args[0] : undefined;
    case 'torch._utils._rebuild_tensor_v2': // (storage, offset, shape, strides, requires_grad, hooks[, metadata])
      return args.length === 6 || args.length === 7 ? rebuild(args, undefined) : undefined;
    case 'torch._utils._rebuild_tensor_v3': // (…, hooks, dtype[, metadata])
      return args.length === 7 || args.length === 8 ? rebuild(args, args[6]) : undefined;
    default:
      return undefined;
  }
}

function rebuild(args: readonly Value[], type: Value | undefined): PickledTensor | undefined {
  const [storage, offset, shape, strides] = args;
  if (!(storage instanceof Stored) || !isCount(offset)) return undefined;
  if (!(shape instanceof Tuple) || !(strides instanceof Tuple)) return undefined;
  const named = type instanceof Named && type.kind === 'dtype' ? type.dtype : undefined;
  const dtype = type === undefined ? storage.dtype : storage.dtype === undefined ? named : undefined;
  const sizes = shape.items.filter(isCount);
  const steps = strides.items.filter(isCount);
  const whole = sizes.length === shape.items.length && steps.length === strides.items.length;
  if (dtype === undefined || !whole || sizes.length !== steps.length) return undefined;
  return new PickledTensor({ storage, dtype, offsetElements: offset, shape: sizes, strides: steps });
}

function isCount(value: Value | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
