// A connection that is kept: one request after the other, each when the one before has its reply.

import { connect, type Socket } from 'node:net';

const HEAD_END = '\r\n\r\n';

export class KeptConnection {
  readonly #host: string;
  readonly #port: number;
  readonly #deadlineMs: number;
  #socket: Socket | undefined;

  constructor(address: string, deadlineMs: number) {
    const { hostname, port } = new URL(address);
    this.#host = hostname;
    this.#port = Number(port);
    this.#deadlineMs = deadlineMs;
  }

  /**
   * Resolves with the reply as it came, in latin1; empty where the server closed the connection without any. Rejects where
   * none comes in time.
   */
  ask(bytes: Buffer): Promise<string> {
    const socket = this.#open();
    return new Promise((resolve, reject) => {
      let received = '';
      const settle = (isOver: boolean) => {
        socket.off('data', onData).off('close', onClose).off('timeout', onTimeout).setTimeout(0);
        if (isOver) this.close();
      };
      const onData = (text: string) => {
        received += text;
        if (!isWhole(received)) return;
        settle(/^connection: close/im.test(received.slice(0, received.indexOf(HEAD_END))));
        resolve(received);
      };
      const onClose = () => {
        settle(true);
        resolve(received);
      };
      const onTimeout = () => {
        settle(true);
        reject(new Error(`no reply in ${this.#deadlineMs / 1e3} s`));
      };
      socket.on('data', onData).on('close', onClose).on('timeout', onTimeout).setTimeout(this.#deadlineMs);
      socket.write(bytes);
    });
  }

  close(): void {
    this.#socket?.destroy();
    this.#socket = undefined;
  }

  #open(): Socket {
    if (this.#socket && !this.#socket.destroyed) return this.#socket;
    const socket = connect({ host: this.#host, port: this.#port, noDelay: true });
    // Its closing tells.
    socket.setEncoding('latin1').on('error', () => undefined);
    this.#socket = socket;
    return socket;
  }
}

function isWhole(text: string): boolean {
  const headEnd = text.indexOf(HEAD_END);
  if (headEnd < 0) return false;
  const head = text.slice(0, headEnd);
  const [, length] = /^content-length: (\d+)/im.exec(head) ?? [];
  if (length !== undefined) return text.length >= headEnd + HEAD_END.length + Number(length);
  return !/^transfer-encoding: chunked/im.test(head) || text.endsWith('\r\n0\r\n\r\n');
}
