// Nodes of memory: what is read of a machine that has several, and that the system is asked for what follows from it.

import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type NumaTopology, nodesFor, numaTopology, processorsByNode } from '../../offload/backends/numa.js';
import { native } from '../../offload/port/native.js';
import { checkNodes } from '../../src/doctor/checks.js';
import { HANG_MS } from '../helpers/hang.js';

/** Two nodes with memory and one with processors alone; a GPU near the second, a network card near the first. */
const FILES: Readonly<Record<string, string>> = {
  '/proc/self/status': 'Name:\tnode\nCpus_allowed_list:\t0-9,12\nMems_allowed_list:\t0-2\n',
  '/sys/devices/system/node/online': '0-2\n',
  '/sys/devices/system/node/has_memory': '0-1\n',
  '/sys/devices/system/node/node0/cpulist': '0-3,8-11\n',
  '/sys/devices/system/node/node1/cpulist': '4-7\n',
  '/sys/devices/system/node/node2/cpulist': '12-13\n',
  '/sys/bus/pci/devices/0000:17:00.0/vendor': '0x10de\n',
  '/sys/bus/pci/devices/0000:17:00.0/class': '0x030200\n',
  '/sys/bus/pci/devices/0000:17:00.0/numa_node': '1\n',
  '/sys/bus/pci/devices/0000:18:00.0/vendor': '0x15b3\n',
  '/sys/bus/pci/devices/0000:18:00.0/class': '0x020700\n',
  '/sys/bus/pci/devices/0000:18:00.0/numa_node': '0\n',
  // A sound function of the card.
  '/sys/bus/pci/devices/0000:17:00.1/vendor': '0x10de\n',
  '/sys/bus/pci/devices/0000:17:00.1/class': '0x040300\n',
  '/sys/bus/pci/devices/0000:17:00.1/numa_node': '0\n',
};

function machine(change: Readonly<Record<string, string | undefined>> = {}): NumaTopology {
  const files = { ...FILES, ...change };
  const list = (path: string) => {
    const inside = Object.keys(files).filter((name) => name.startsWith(`${path}/`));
    return [...new Set(inside.map((name) => name.slice(path.length + 1).split('/')[0] ?? ''))];
  };
  return numaTopology({ read: (path) => files[path], list });
}

describe('a machine with several nodes', () => {
  it('is read as far as this process may use it', () => {
    expect(machine()).toEqual({
      nodes: [
        { id: 0, processors: [0, 1, 2, 3, 8, 9], hasMemory: true },
        { id: 1, processors: [4, 5, 6, 7], hasMemory: true },
        { id: 2, processors: [12], hasMemory: false },
      ],
      gpuNodes: [1],
    });
    const elsewhere = machine({ '/proc/self/status': 'Cpus_allowed_list:\t4-7\nMems_allowed_list:\t1\n' });
    expect(elsewhere.nodes.map(({ hasMemory }) => hasMemory)).toEqual([false, true, false]);
    expect(processorsByNode(elsewhere)).toBeUndefined();
  });

  it('has weights on all nodes, and what a GPU copies near it', () => {
    expect(nodesFor(machine(), 'resident')).toEqual([0, 1]);
    for (const purpose of ['stream', 'cache', 'control', 'shared'] as const) {
      expect(nodesFor(machine(), purpose)).toEqual([1]);
    }
    // The system does not say where the card is.
    const lost = machine({ '/sys/bus/pci/devices/0000:17:00.0/numa_node': '-1\n' });
    expect(nodesFor(lost, 'stream')).toEqual([0, 1]);
    expect(nodesFor(lost, 'control')).toBeUndefined();
  });

  it('has threads on every node that has processors', () => {
    expect(processorsByNode(machine())).toEqual([[0, 1, 2, 3, 8, 9], [4, 5, 6, 7], [12]]);
  });

  it('is shown by doctor', () => {
    expect(checkNodes(machine())).toMatchObject({
      state: 'limited',
      finding: expect.stringMatching(
        /node 0 with 6 cores, node 1 with 4 cores, node 2 with 1 core and no memory .*near node 1/,
      ),
    });
  });
});

it.each([
  ['one node', { '/sys/devices/system/node/online': '0\n' }],
  ['no word of nodes', { '/sys/devices/system/node/online': undefined }],
])('%s: nothing is asked of the system', (_, change) => {
  const topology = machine(change);
  for (const purpose of ['resident', 'stream', 'control'] as const) {
    expect(nodesFor(topology, purpose)).toBeUndefined();
  }
  expect(processorsByNode(topology)).toBeUndefined();
  expect(checkNodes(topology)).toBeUndefined();
});

describe('the system', () => {
  const [node = 0] = numaTopology()
    .nodes.filter(({ hasMemory }) => hasMemory)
    .map(({ id }) => id);

  it('is told where a memory’s pages are to lie', () => {
    const memory = new (native().NativeMemory)(4 << 20, true);
    const refusal = memory.placeOnNodes([node]);
    // A container may forbid it.
    if (refusal !== '') return expect(refusal).toMatch(/^mbind: .*(EPERM|ENOSYS|permit|implement)/i);
    memory.populate(1);
    expect(readFileSync('/proc/self/numa_maps', 'utf8')).toMatch(new RegExp(`prefer(red)?[^ ]*:${node} `));
    memory.free();
    const refused = new (native().NativeMemory)(4096, false);
    expect(refused.placeOnNodes([1000])).toMatch(/^mbind: /);
    expect(refused.placeOnNodes([5000])).toBe('node 5000 is none');
    return refused.free();
  });

  it('runs threads of a pool on the processors of one node each', () => {
    const all = numaTopology().nodes.flatMap(({ processors }) => processors);
    const [first = 0, second = first] = all;
    const poolLists = () =>
      readdirSync('/proc/self/task').flatMap((task) => {
        const status = readFileSync(`/proc/self/task/${task}/status`, 'utf8');
        if (!/^Name:\s+zi:pool$/m.test(status)) return [];
        return [/^Cpus_allowed_list:\s+(.*)$/m.exec(status)?.[1]];
      });
    native().configureCpu({ threads: 3, processorsByNode: [[first], [second]] });
    const deadline = Date.now() + HANG_MS;
    // Threads name and bind themselves when they first run.
    while (new Set(poolLists()).size < new Set([first, second]).size && Date.now() < deadline);
    expect(new Set(poolLists())).toEqual(new Set([`${second}`, `${first}`]));
    native().configureCpu({ threads: 2 });
  });
});
