// Predicts what a step of all batches of a pipeline takes, from what each of its stages would take alone.

import type { Plan } from '../plan/plan.js';
import type { HardwareProfile } from '../plan/profile.js';
import { lanePlans } from '../plan/stages.js';
import type { PredictedPass } from './predicted.js';

type PredictLane = (plan: Plan, profile: HardwareProfile) => PredictedPass | undefined;

/**
 * The time of a round, in which every batch makes such a pass; tokens are those of one batch, as with devices that each have a
 * batch. Undefined where a stage's cannot be predicted.
 */
export function predictStages(
  plan: Plan,
  { compute, ...profile }: HardwareProfile,
  predictLane: PredictLane,
): PredictedPass | undefined {
  const batches = plan.pipeline?.batches ?? 1;
  // What the host does for one batch, devices do not wait for while they have others.
  const alone = { ...profile, compute: { ...compute, passMs: 0 } };
  const stages = lanePlans(plan).map((lane) => predictLane(lane.plan, alone));
  if (!stages.every((stage) => stage !== undefined)) return undefined;
  const sum = (of: (stage: PredictedPass) => number) => stages.reduce((all, one) => all + of(one), 0);
  const most = (of: (stage: PredictedPass) => number) => Math.max(...stages.map(of));
  // All of them read from the same drives.
  const driveMs = batches * sum((stage) => stage.driveMs);
  const paceMs = batches * most((stage) => stage.totalMs);
  const throughMs = sum((stage) => stage.totalMs) + compute.passMs;
  const totalMs = Math.max(paceMs, throughMs, driveMs);
  const computeMs = batches * most((stage) => stage.computeMs);
  const slowest = stages.reduce((slow, one) => (one.totalMs > slow.totalMs ? one : slow));
  return {
    totalMs,
    computeMs,
    driveMs,
    linkMs: batches * most((stage) => stage.linkMs),
    stallMs: Math.max(0, totalMs - computeMs),
    bound: driveMs >= totalMs ? 'drive' : slowest.bound,
    tokens: slowest.tokens,
    driveBytes: batches * sum((stage) => stage.driveBytes),
    weightBytes: batches * sum((stage) => stage.weightBytes),
    flops: batches * sum((stage) => stage.flops),
  };
}
