// Nodes of the machine's memory: which processors and GPUs are near which, and where what kind of memory had better lie.

import { readdirSync } from 'node:fs';
import type { HostPurpose } from '../port/backend.js';
import { type ReadText, readText } from './control-group.js';

/** What this process may use of a node. */
export interface MemoryNode {
  readonly id: number;
  readonly processors: readonly number[];
  readonly hasMemory: boolean;
}

export interface NumaTopology {
  readonly nodes: readonly MemoryNode[];
  /** With memory, near the GPUs that the machine has; of each GPU one, in no order. */
  readonly gpuNodes: readonly number[];
}

/** The system's files, or those of another machine. */
export interface SystemFiles {
  readonly read: ReadText;
  /** Names in a folder; none where there is no such folder. */
  readonly list: (path: string) => readonly string[];
}

const NODES = '/sys/devices/system/node';
const PCI = '/sys/bus/pci/devices';
const NVIDIA = '0x10de';
/** A display controller, or one without a display. */
const GPU_CLASS = /^0x030[02]/;

export const SYSTEM_FILES: SystemFiles = {
  read: readText,
  list: (path) => {
    try {
      return readdirSync(path);
    } catch {
      return [];
    }
  },
};

/** Where the system says nothing of nodes there are none. */
export function numaTopology({ read, list }: SystemFiles = SYSTEM_FILES): NumaTopology {
  const status = read('/proc/self/status') ?? '';
  const allowed = (name: string) => numbersOf(new RegExp(`^${name}:\\s+(.*)$`, 'm').exec(status)?.[1]);
  const [processors, memories] = [allowed('Cpus_allowed_list'), allowed('Mems_allowed_list')];
  const isAllowed = (set: readonly number[], one: number) => set.length === 0 || set.includes(one);
  const withMemory = numbersOf(read(`${NODES}/has_memory`));
  const nodes = numbersOf(read(`${NODES}/online`)).map((id) => ({
    id,
    processors: numbersOf(read(`${NODES}/node${id}/cpulist`)).filter((one) => isAllowed(processors, one)),
    hasMemory: isAllowed(withMemory, id) && isAllowed(memories, id),
  }));
  // Nobody asks where GPUs are that has no choice.
  if (nodes.length < 2) return { nodes, gpuNodes: [] };
  const gpuNodes = list(PCI).flatMap((device) => {
    const text = (name: string) => read(`${PCI}/${device}/${name}`)?.trim() ?? '';
    if (text('vendor') !== NVIDIA || !GPU_CLASS.test(text('class'))) return [];
    const node = Number(text('numa_node') || -1);
    return nodes.some(({ id, hasMemory }) => id === node && hasMemory) ? [node] : [];
  });
  return { nodes, gpuNodes: [...new Set(gpuNodes)].sort((a, b) => a - b) };
}

/**
 * Nodes on which pages of such memory lie in turns; undefined where that is the system's business. Weights at rest have the memory of all
 * nodes read at once, whoever reads them. What a device copies from or writes to lies near it.
 */
export function nodesFor({ nodes, gpuNodes }: NumaTopology, purpose: HostPurpose): number[] | undefined {
  const all = nodes.filter(({ hasMemory }) => hasMemory).map(({ id }) => id);
  if (all.length < 2) return undefined;
  if (purpose === 'resident') return all;
  if (gpuNodes.length > 0) return [...gpuNodes];
  return purpose === 'stream' ? all : undefined;
}

/** Processors of each node that has some, for threads that are to be spread over them; undefined where there is one. */
export function processorsByNode({ nodes }: NumaTopology): number[][] | undefined {
  const lists = nodes.map(({ processors }) => [...processors]).filter(({ length }) => length > 0);
  return lists.length < 2 ? undefined : lists;
}

let known: NumaTopology | undefined;

/** This machine's, looked at once. */
export function machineTopology(): NumaTopology {
  known ??= numaTopology();
  return known;
}

/** `0-3,8,10-11` as the kernel writes it. */
function numbersOf(text = ''): number[] {
  return text
    .trim()
    .split(',')
    .flatMap((part) => {
      const [, first, last = first] = /^(\d+)(?:-(\d+))?$/.exec(part) ?? [];
      if (first === undefined || last === undefined) return [];
      return Array.from({ length: Number(last) - Number(first) + 1 }, (_, at) => Number(first) + at);
    });
}
