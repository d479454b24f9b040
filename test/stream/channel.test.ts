// A bounded queue: neither side runs away, and a failure wakes both.

import { describe, expect, it } from 'vitest';
import { Channel } from '../../offload/stream/channel.js';

/** Lets everything that can run now run. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

describe('Channel', () => {
  it('keeps the order and never holds more than its capacity', async () => {
    const channel = new Channel<number>(3);
    let [held, most] = [0, 0];
    const send = async () => {
      for (let item = 0; item < 100; item++) {
        await channel.room();
        channel.push(item);
        most = Math.max(most, ++held);
      }
    };
    const sending = send();
    const received: number[] = [];
    while (received.length < 100) {
      received.push(await channel.next());
      held--;
      if (received.length % 9 === 0) await settle();
    }
    await sending;
    expect(received).toEqual(Array.from({ length: 100 }, (_, index) => index));
    expect(most).toBeLessThanOrEqual(4); // three held, and one that was taken but not yet counted
  });

  it('lets the sender wait while it is full and the receiver while it is empty', async () => {
    const channel = new Channel<string>(1);
    channel.push('first');
    let room = false;
    const waiting = channel.room().then(() => {
      room = true;
    });
    await settle();
    expect(room).toBe(false);
    expect(await channel.next()).toBe('first');
    await waiting;
    let item: string | undefined;
    const receiving = channel.next().then((received) => {
      item = received;
    });
    await settle();
    expect(item).toBeUndefined();
    channel.push('second');
    await receiving;
    expect(item).toBe('second');
  });

  it('carries items that are falsy', async () => {
    const channel = new Channel<number | null>(2);
    channel.push(0);
    channel.push(null);
    expect([await channel.next(), await channel.next()]).toEqual([0, null]);
  });

  it('wakes a waiting sender and a waiting receiver with the reason of a failure', async () => {
    const reason = new Error('failed');
    const full = new Channel<number>(1);
    full.push(1);
    const sending = full.room();
    full.fail(reason);
    await expect(sending).rejects.toBe(reason);
    const empty = new Channel<number>(1);
    const receiving = empty.next();
    empty.fail(reason);
    empty.fail(new Error('later'));
    await expect(receiving).rejects.toBe(reason);
    await expect(empty.room()).rejects.toBe(reason);
  });

  it('still hands out what was waiting when it failed, unless that was drained', async () => {
    const reason = new Error('failed');
    const channel = new Channel<number>(4);
    for (const item of [1, 2, 3]) channel.push(item);
    channel.fail(reason);
    expect(await channel.next()).toBe(1);
    expect(channel.drain()).toEqual([2, 3]);
    await expect(channel.next()).rejects.toBe(reason);
  });

  it('holds at least one item', () => {
    expect(() => new Channel(0)).toThrow(/at least one/);
  });
});
