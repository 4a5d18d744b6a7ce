/**
 * Standard output: written with back-pressure, quiet when the reader goes away (`asof map FILE | head`), and an error
 * in words where it cannot be written (a full disk).
 */
import { AsofError } from '../errors.js';

/** Thrown by `write` when nobody reads any more; the command ends quietly. */
export class ReaderGone extends Error {}

let failed: NodeJS.ErrnoException | undefined;

/** Call once, before anything is written. */
export function guardOutput(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    failed ??= error;
  });
  // There is nobody left to tell.
  process.stderr.on('error', () => {});
}

function assertWritable(): void {
  if (!failed) return;
  if (failed.code === 'EPIPE') throw new ReaderGone();
  throw new AsofError('IO', `cannot write to standard output: ${failed.code ?? failed.message}`, '', {
    cause: failed,
  });
}

/** Writes, and resolves when more may follow. Throws ReaderGone, or IO where an earlier write has failed. */
export async function write(data: string | Uint8Array): Promise<void> {
  assertWritable();
  let written: () => void = () => {};
  const done = new Promise<void>(resolve => {
    written = resolve;
  });
  // The callback comes for a failed write too.
  if (!process.stdout.write(data, () => written())) await done;
  assertWritable();
}

/** Resolves when all that was written has left the process. Throws as `write` does. */
export async function flush(): Promise<void> {
  if (!failed) await new Promise<void>(done => process.stdout.write('', () => done()));
  // A stream tells of an error one turn after it has called back.
  await new Promise(done => setImmediate(done));
  assertWritable();
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
