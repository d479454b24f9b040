// Hostile pickles: whatever Python would import, call or build is refused by name, and nothing is executed.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { tempFolder } from '../helpers/temp-folder.js';
import { torchRefusal as refusalOf } from '../helpers/torch-refusal.js';
import { PickleWriter, torchFile } from '../helpers/write-torch-bin.js';

describe('hostile pickles are refused, and execute nothing', () => {
  const canary = join(tempFolder(), 'executed');
  const command = `touch ${canary}`;
  const pickle = (protocol = 2) => new PickleWriter(protocol);
  const tuple1 = 0x85;
  const reduce = 0x52;
  const cases: [string, Buffer, RegExp][] = [
    ['os.system', pickle().global('os', 'system').text(command).op(tuple1, reduce).end(), /"os.system"/],
    [
      'posix.system',
      pickle(4).global('posix', 'system').text(command).op(tuple1, reduce).end(),
      /"posix.system"/,
    ],
    [
      'builtins.eval',
      pickle().global('builtins', 'eval').text('1').op(tuple1, reduce).end(),
      /"builtins.eval"/,
    ],
    ['__builtin__.exec', pickle().global('__builtin__', 'exec').end(), /"__builtin__.exec"/],
    ['a dotted name', pickle(4).global('torch', 'serialization.os.system').end(), /serialization.os.system/],
    ['torch.load', pickle().global('torch', 'load').end(), /"torch.load"/],
    ['torch.hub.load', pickle().global('torch.hub', 'load').end(), /"torch.hub.load"/],
    [
      'a subclass rebuilder',
      pickle().global('torch._tensor', '_rebuild_from_type_v2').end(),
      /_rebuild_from_type/,
    ],
    ['a known name elsewhere', pickle().global('evil', 'OrderedDict').end(), /"evil.OrderedDict"/],
    ['a name with a blank', pickle().global('torch._utils _rebuild_tensor_v2', '').end(), /refers to/],
    ['a prototype name', pickle().global('__proto__', 'constructor').end(), /refers to/],
    ['a global of no text', pickle(4).int(1).int(2).op(0x93).end(), /by no text/],
    [
      'an endless name',
      pickle()
        .raw(`c${'x'.repeat(300)}\n`)
        .end(),
      /longer than 200/,
    ],
    [
      'a type called',
      pickle().global('torch', 'FloatStorage').op(0x29, reduce).end(),
      /calls torch.FloatStorage/,
    ],
    ['a text called', pickle().text('eval').op(0x29, reduce).end(), /calls a plain value/],
    [
      'OrderedDict of items',
      pickle().global('collections', 'OrderedDict').int(1).op(tuple1, reduce).end(),
      /calls/,
    ],
    [
      'a tensor of no storage',
      pickle().global('torch._utils', '_rebuild_tensor_v2').op(0x29, reduce).end(),
      /calls/,
    ],
    ['INST', pickle().raw('(S"x"\nios\nsystem\n').end(), /opcode STRING/],
    ['INST alone', pickle().raw('(ios\nsystem\n').end(), /opcode INST/],
    ['OBJ', pickle().raw('(').global('collections', 'OrderedDict').raw('o').end(), /opcode OBJ/],
    ['NEWOBJ', pickle().global('collections', 'OrderedDict').op(0x29, 0x81).end(), /opcode NEWOBJ/],
    ['NEWOBJ_EX', pickle().op(0x92).end(), /opcode NEWOBJ_EX/],
    ['EXT1', pickle().op(0x82, 1).end(), /opcode EXT1/],
    ['EXT2', pickle().op(0x83, 1, 0).end(), /opcode EXT2/],
    ['EXT4', pickle().op(0x84, 1, 0, 0, 0).end(), /opcode EXT4/],
    ['PERSID', pickle().raw('Pstorage\n').end(), /opcode PERSID/],
    ['LONG4', pickle().op(0x8b, 255, 255, 255, 127).end(), /opcode LONG4/],
    ['a huge LONG1', pickle().op(0x8a, 255).end(), /255 bytes/],
    [
      'a LONG1 beyond 2^53',
      pickle().op(0x8a, 8, 255, 255, 255, 255, 255, 255, 255, 127).end(),
      /beyond 2\^53/,
    ],
    ['DUP', pickle().op(0x29, 0x32).end(), /opcode DUP/],
    ['POP', pickle().op(0x29, 0x30).end(), /opcode POP/],
    ['a byte that is no opcode', pickle().op(0xff).end(), /opcode 0xff/],
    ['a second PROTO', pickle().op(0x80, 2).end(), /opcode PROTO/],
    ['protocol 0', Buffer.from('(dp0\n.'), /does not begin with the opcode PROTO/],
    ['protocol 6', Buffer.from([0x80, 6, 0x7d, 0x2e]), /protocol 6/],
    ['a persistent id that is text', pickle().text('storage').op(0x51).end(), /persistent id/],
    ['nested persistent ids', pickle().op(0x29, 0x51, 0x51).end(), /persistent id/],
    [
      'a persistent id within one',
      pickle()
        .op(0x28)
        .text('storage')
        .op(0x28)
        .text('storage')
        .global('torch', 'FloatStorage')
        .text('0')
        .text('cpu')
        .int(1)
        .op(0x74, 0x51)
        .text('0')
        .text('cpu')
        .int(1)
        .op(0x74, 0x51)
        .end(),
      /persistent id/,
    ],
    [
      'BUILD on a name',
      pickle().global('collections', 'OrderedDict').op(0x7d, 0x62).end(),
      /sets attributes of/,
    ],
    ['BUILD with no dictionary', pickle().orderedDict().text('x').op(0x62).end(), /sets attributes of/],
    ['items of a text', pickle().text('x').int(1).int(2).op(0x73).end(), /items of no dictionary/],
    ['an odd number of items', pickle().op(0x7d, 0x28).int(1).op(0x75).end(), /items of no dictionary/],
    ['a key that is a dictionary', pickle().op(0x7d, 0x7d, 0x7d, 0x73).end(), /key that is no text/],
    [
      'a key twice',
      pickle().op(0x7d, 0x28).text('a').int(1).text('a').int(2).op(0x75).end(),
      /names "a" twice/,
    ],
    ['an empty stack', pickle().op(0x85).end(), /more values than it made/],
    ['values below a mark', pickle().int(1).op(0x28, 0x85).end(), /more values than it made/],
    ['a group without a mark', pickle().int(1).op(0x74).end(), /never began/],
    ['an unknown memo', pickle().op(0x68, 9).end(), /recalls value 9/],
    ['a memo of nothing', pickle().op(0x71, 0).end(), /before it made one/],
    ['nothing at all', Buffer.alloc(0), /ends in the middle/],
    ['no STOP', pickle().end().subarray(0, -1), /ends in the middle/],
    ['a text longer than the file', pickle().op(0x58, 255, 255, 255, 255).end(), /ends in the middle/],
    [
      'bytes after STOP',
      Buffer.concat([pickle().op(0x7d).end(), Buffer.from('..')]),
      /2 bytes after its STOP/,
    ],
    ['a tuple', pickle().op(0x29).end(), /something else than a dictionary/],
    [
      'a nested dictionary',
      pickle().op(0x7d).text('model').op(0x7d, 0x73).end(),
      /"model", which is no tensor/,
    ],
    ['a number as key', pickle().op(0x7d).int(3).op(0x7d, 0x73).end(), /3, which is no tensor/],
    [
      'a dictionary that holds itself',
      pickle().op(0x7d).put().text('x').op(0x68, 0, 0x73).end(),
      /"x", which is/,
    ],
  ];
  test.each(cases)('%s', async (_what, bytes, message) => {
    expect(await refusalOf(torchFile(bytes, []))).toMatch(message);
    expect(existsSync(canary)).toBe(false);
  });

  test('doubling tuples, millions of opcodes, and pickles of many bytes stay small', async () => {
    // Each TUPLE2 holds the one before twice: expanded, 2^10000 values.
    const doubling = pickle().op(0x29).put();
    for (let i = 0; i < 10_000; i++) doubling.op(0x71, 0, 0x68, 0, 0x86);
    const before = process.memoryUsage().rss;
    expect(await refusalOf(torchFile(doubling.end(), []))).toMatch(/something else than a dictionary/);
    const nested = Buffer.concat([
      pickle().op(0x29).end().subarray(0, -1),
      Buffer.alloc(1e6, 0x85),
      Buffer.from('.'),
    ]);
    expect(await refusalOf(torchFile(nested, []))).toMatch(/something else/);
    for (const opcode of [0x28, 0x29, 0x7d, 0x4e]) {
      const bomb = Buffer.concat([Buffer.from([0x80, 2]), Buffer.alloc(6e6, opcode)]);
      expect(await refusalOf(torchFile(bomb, []))).toMatch(/more than 4000000 steps/);
    }
    expect(await refusalOf(torchFile(Buffer.alloc(65 * 2 ** 20, 0x4e), []))).toMatch(/above the limit/);
    expect(process.memoryUsage().rss - before).toBeLessThan(800 * 2 ** 20);
  });
});
