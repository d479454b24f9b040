// Where a plan's layers rest and stream, as a sentence.

import {
  type BufferPlan,
  CUTS,
  counted,
  formatBytes,
  KV_TYPE_NAMES,
  type Plan,
  type Tier,
} from '../../offload/index.js';

/** For logs: `12 of 32 layers rest in DRAM, 20 stream from the drive through 4 buffers of 436 MiB`. */
export function describePlacement(plan: Plan): string {
  return `${describeLayers(plan)}${describeSlots(plan)}${describeRows(plan)}${describeKv(plan)}${describeTransfer(plan)}`;
}

/** Says nothing of layers that are there whole. */
function describeSlots({ slots, layers }: Plan): string {
  if (!slots) return '';
  const { behind } = slots;
  if (behind) {
    return (
      `; all but the experts rests on the device as well, and of ${slots.keys} experts ${slots.count} lie in slots there and ` +
      `${behind.count} in slots of DRAM, where passes of at most ${counted(slots.mostTokens, 'token')} bring those they choose`
    );
  }
  const fromFiles = layers.some(({ experts }) => experts?.files);
  const rest = fromFiles ? 'rests in DRAM' : 'rests on the device as well';
  return (
    `; all but the experts ${rest}, and ${slots.count} of ${slots.keys} experts in slots, ` +
    `where passes of at most ${counted(slots.mostTokens, 'token')} ${fromFiles ? 'read' : 'bring'} those they choose`
  );
}

/** Says nothing of layers that always come whole. */
function describeRows({ rows }: Plan): string {
  if (!rows) return '';
  const share = `${Math.round(100 * (1 - rows.share / CUTS))} %`;
  const begins = rows.isFixed ? share : `${share} to begin with`;
  return `; of their rows the CPU multiplies some where they rest (${begins}), in passes of at most ${counted(rows.mostTokens, 'token')}`;
}

/** Says nothing of those that are exact, on the device. */
function describeKv({ kvBuffers, kvType, activationType }: Plan): string {
  const stored = kvType === activationType ? '' : ` in ${KV_TYPE_NAMES[kvType]}`;
  if (kvBuffers.count > 0) return `; keys and values rest in DRAM${stored}`;
  return stored && `; keys and values rest${stored}`;
}

/** Says nothing of one device, and of devices in place. */
function describeTransfer({ deviceCount, deviceBuffers, transfer, pipeline }: Plan): string {
  if (pipeline) {
    const { stages, batches } = pipeline;
    const each = stages.map(({ first, end }) => end - first).join(' + ');
    return `; ${counted(stages.length, 'device')} in a row have ${each} of them, through which ${counted(batches, 'batch', 'batches')} follow each other`;
  }
  return deviceCount > 1 && deviceBuffers.count > 0 ? `; ${transfer.reason}` : '';
}

function describeLayers({ layers, hostBuffers, deviceBuffers }: Plan): string {
  const count = (wanted: Tier) => layers.filter(({ tier }) => tier === wanted).length;
  const [onDevice, inDram, onDrive] = [count('gpu'), count('dram'), count('nvme')];
  const all = layers.length === 1 ? 'the only layer rests' : `all ${layers.length} layers rest`;
  const some = (number: number) =>
    `${number} of ${counted(layers.length, 'layer')} ${number === 1 ? 'rests' : 'rest'}`;
  if (onDevice === layers.length) return `${all} on the device: nothing streams`;
  const through = ({ count: buffers, sizeBytes }: BufferPlan) =>
    `through ${counted(buffers, 'buffer')} of ${formatBytes(sizeBytes)}`;
  const toDevice =
    deviceBuffers.count > 0
      ? `${onDrive > 0 ? 'and on' : 'and stream'} to the device ${through(deviceBuffers)}`
      : '';
  const parts: string[] = [];
  if (onDevice > 0) parts.push(`${some(onDevice)} on the device`);
  if (onDrive === 0) {
    const resting = onDevice > 0 ? `${inDram} in DRAM` : `${all} in DRAM`;
    parts.push([resting, toDevice].filter((part) => part !== '').join(' '));
    return parts.join(', ');
  }
  parts.push(onDevice > 0 ? `${inDram} in DRAM` : `${some(inDram)} in DRAM`);
  const drive = `${onDrive} stream from the drive ${through(hostBuffers)}`;
  return [...parts, [drive, toDevice].filter((part) => part !== '').join(' ')].join(', ');
}
