// The script of a thread that parses long JSON.

import { answerAside } from './aside.js';
import { type ParsedJson, parseBounded } from './bounded-json.js';

answerAside(
  (bytes: Uint8Array): ParsedJson => parseBounded(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)),
);
