// The cycle of layers as a timeline: when drive, link and compute are busy with each layer, given the windows.

import { assert, present } from '../errors.js';

/** What one layer costs each of the three; 0 where it does not pass by. */
export interface LayerTimes {
  /** nvme→dram */
  readonly driveMs: number;
  /** dram→gpu and the gather after it */
  readonly linkMs: number;
  readonly computeMs: number;
}

export interface Windows {
  /** Layers that lie in host buffers at once. */
  readonly host: number;
  /** Layers that lie in device buffers at once; 0 where the device computes in place. */
  readonly device: number;
  /** Steps that the stages may run ahead of the pass; default as many as there are buffers, and one. */
  readonly ahead?: number;
  /** From the last layer of a pass until the next pass begins. */
  readonly betweenMs: number;
}

export interface PassTimes {
  readonly totalMs: number;
  /** Compute had a pass to work on and waited for a layer. */
  readonly stallMs: number;
}

/** The cycle settles within a pass or two: each pass begins as the last one left the buffers. */
const PASSES = 4;

/**
 * The time of one pass after the first ones. Each hop takes layers in order, one after the other, as soon as it is
 * free and a buffer is; a buffer is free once the layer that is `window` places before has left it.
 */
export function simulatePasses(layers: readonly LayerTimes[], windows: Windows): PassTimes {
  assert(layers.length > 0, 'a pass has layers');
  const linkDone: number[] = [];
  const computeDone: number[] = [];
  const streamed: number[] = []; // steps that pass through host buffers
  const copied: number[] = []; // steps that pass through device buffers
  let [driveFree, linkFree, computeFree, passEnd, stallMs] = [0, 0, 0, 0, 0];
  let last: PassTimes = { totalMs: 0, stallMs: 0 };
  // The stages run ahead of the pass by this many steps only, with or without host buffers.
  const ahead = windows.ahead ?? Math.max(windows.host, 2) + Math.max(windows.device, 2) + 1;
  for (let pass = 0; pass < PASSES; pass++) {
    const began = passEnd;
    const ready = pass === 0 ? 0 : began + windows.betweenMs;
    computeFree = ready;
    stallMs = 0;
    layers.forEach(({ driveMs, linkMs, computeMs }, index) => {
      const step = pass * layers.length + index;
      const mayBegin = index < ahead ? 0 : ready;
      let inDram = mayBegin;
      if (driveMs > 0) {
        const before = streamed[streamed.length - windows.host];
        const leftBuffer =
          before === undefined ? 0 : present((windows.device > 0 ? linkDone : computeDone)[before], 'step');
        driveFree = Math.max(driveFree, leftBuffer, mayBegin) + driveMs;
        inDram = driveFree;
        streamed.push(step);
      }
      let onDevice = inDram;
      if (linkMs > 0) {
        const before = windows.device > 0 ? copied[copied.length - windows.device] : undefined;
        const leftBuffer = before === undefined ? 0 : present(computeDone[before], 'step');
        copied.push(step);
        linkFree = Math.max(linkFree, inDram, leftBuffer) + linkMs;
        onDevice = linkFree;
      }
      linkDone.push(onDevice);
      stallMs += Math.max(0, onDevice - computeFree);
      computeFree = Math.max(computeFree, onDevice) + computeMs;
      computeDone.push(computeFree);
    });
    passEnd = computeFree;
    last = { totalMs: passEnd - began, stallMs };
  }
  return last;
}
