/**
 * Standard output: written with back-pressure, and quiet when the reader goes away (`asof map FILE | head`).
 */
import { once } from 'node:events';

/** Thrown by `write` when nobody reads any more; the command ends quietly. */
export class ReaderGone extends Error {}

let gone = false;

/** Call once, before anything is written. */
export function guardOutput(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
      if (stream === process.stdout) gone = true;
    });
  }
}

/** Writes, and resolves when more may follow. Throws ReaderGone. */
export async function write(data: string | Uint8Array): Promise<void> {
  if (gone) throw new ReaderGone();
  if (process.stdout.write(data)) return;
  // A broken pipe raises 'error' and closes the stream without a 'drain'.
  await Promise.race([once(process.stdout, 'drain'), once(process.stdout, 'close')]).catch(() => {});
  if (gone) throw new ReaderGone();
}

/** Resolves when all that was written has left the process. */
export async function flush(): Promise<void> {
  if (gone || process.stdout.writableLength === 0) return;
  await new Promise<void>(done => {
    process.stdout.write('', () => done());
    process.stdout.once('error', () => done());
  });
}

/** One JSON document, for people to read as well. */
export async function writeJson(value: unknown): Promise<void> {
  await write(`${JSON.stringify(value, null, 2)}\n`);
}

/** A JSON array, one item a line, written as the items come. */
export class JsonArray {
  #first = true;

  async add(item: unknown): Promise<void> {
    await write(`${this.#first ? '[\n' : ',\n'}  ${JSON.stringify(item)}`);
    this.#first = false;
  }

  async end(): Promise<void> {
    await write(this.#first ? '[]\n' : '\n]\n');
  }
}
