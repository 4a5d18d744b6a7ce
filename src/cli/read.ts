/**
 * `asof read`: bytes of a point, raw. What comes before a damaged sector is written, nothing in its place, and the
 * exit status says so.
 */
import type { Command } from 'commander';
import type { Disk } from '../block/disk.js';
import { checkRange } from '../block/source.js';
import { AsofError } from '../errors.js';
import { OpenedImage } from '../service.js';
import { type ImageFlags, imageOptions, withCache, withImage, withJson, withPoint } from './options.js';
import { write } from './output.js';
import { examples } from './program.js';
import { Progress } from './progress.js';
import { parseSize } from './size.js';

interface Flags extends ImageFlags {
  readonly point?: string;
  readonly offset: number;
  readonly length?: number;
}

/** Bytes of one read. A multiple of 3 bytes for base64 is cut from it where JSON is asked for. */
const PIECE = 4 * 2 ** 20;

export function define(command: Command): void {
  withJson(withCache(withPoint(withImage(command))))
    .option('--offset <N>', 'where to begin, bytes', text => parseSize(text, '--offset'), 0)
    .option('--length <N>', 'how many bytes (to the end unless given)', text => parseSize(text, '--length'))
    .addHelpText(
      'after',
      `
With --json the bytes are the base64 string "data" of an object that tells their "length" as well.
Exit status 3 where a sector is damaged; the bytes before it have been written.
${examples(['asof read disk.qcow2 --offset 0 --length 512 | xxd', 'asof read disk.qcow2 --point before-upgrade > disk.raw'])}`,
    )
    .action(async (file: string, flags: Flags) => {
      const image = new OpenedImage(file, imageOptions(flags));
      try {
        const point = image.point(flags.point);
        const length = flags.length ?? Math.max(0, point.size - flags.offset);
        checkRange(point.size, flags.offset, length);
        const sink = flags.json ? new Base64(point.id, flags.offset) : { begin() {}, add: write, end() {} };
        await sink.begin();
        try {
          await copy(image.disk(point), flags.offset, length, sink.add.bind(sink));
        } finally {
          await sink.end();
        }
      } finally {
        image.close();
      }
    });
}

/** The next piece is read while the last one is written. Throws DAMAGED after the bytes before the damage. */
async function copy(disk: Disk, offset: number, length: number, add: (bytes: Buffer) => Promise<void>) {
  const progress = new Progress('reading', length);
  const end = offset + length;
  const take = (at: number) => disk.read(at, Math.min(PIECE, end - at)).catch((error: unknown) => error);
  let next = offset < end ? take(offset) : undefined;
  try {
    for (let at = offset; next; at += PIECE) {
      const piece = await next;
      next = undefined;
      if (!Buffer.isBuffer(piece)) {
        await writeBefore(disk, at, Math.min(PIECE, end - at), add);
        throw piece;
      }
      if (at + PIECE < end) next = take(at + PIECE);
      await add(piece);
      progress.at(at + piece.length - offset);
    }
  } finally {
    progress.end();
    await next;
  }
}

/** Writes what can be read before the first damage of a range that is known to hold one: by halves. */
async function writeBefore(
  disk: Disk,
  offset: number,
  length: number,
  add: (bytes: Buffer) => Promise<void>,
) {
  const sector = disk.source.sectorSize;
  while (length > sector) {
    const half = Math.ceil(length / 2 / sector) * sector;
    if (half >= length) break;
    try {
      await add(await disk.read(offset, half));
      offset += half;
      length -= half;
    } catch (error) {
      if (!(error instanceof AsofError && error.code === 'DAMAGED')) throw error;
      length = half;
    }
  }
}

/** `{"point": …, "offset": …, "data": "…", "length": …}`, written as the bytes come. */
class Base64 {
  readonly #head: string;
  #rest = Buffer.alloc(0);
  #length = 0;

  constructor(point: string, offset: number) {
    this.#head = `{"point":${JSON.stringify(point)},"offset":${offset},"data":"`;
  }

  begin(): Promise<void> {
    return write(this.#head);
  }

  async add(bytes: Buffer): Promise<void> {
    this.#length += bytes.length;
    const all = Buffer.concat([this.#rest, bytes]);
    const whole = all.length - (all.length % 3);
    this.#rest = all.subarray(whole);
    await write(all.subarray(0, whole).toString('base64'));
  }

  async end(): Promise<void> {
    await write(`${this.#rest.toString('base64')}","length":${this.#length}}\n`);
  }
}
