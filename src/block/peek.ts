/**
 * Reads a little of a disk at once, for who must know it before the disk can be mapped: the tables of what lies inside it.
 * Data never comes this way; the engine reads that.
 */
import { AsofError } from '../errors.js';
import { loadAddon } from '../native.js';
import { CODECS, type PackedExtent } from './extent.js';
import { type BlockSource, checkRange } from './source.js';

export class Peek {
  readonly source: BlockSource;
  /** The last packed block, since tables are read piece by piece. */
  #last: { readonly of: PackedExtent; readonly bytes: Buffer } | undefined;

  constructor(source: BlockSource) {
    this.source = source;
  }

  /**
   * The bytes of [offset, offset + length).
   * Throws OUT_OF_RANGE, IO, or DAMAGED where any of them cannot be vouched for.
   */
  read(offset: number, length: number): Buffer {
    checkRange(this.source.size, offset, length);
    const bytes = Buffer.alloc(length);
    let done = 0;
    for (const run of this.source.extents(offset, length)) {
      if (run.kind === 'bad') throw damaged(offset + done, run.length, run.why);
      if (run.kind !== 'zero') {
        const found =
          run.kind === 'data'
            ? run.file.read(run.offset, run.length)
            : this.#unpack(run, offset + done).subarray(run.skip, run.skip + run.length);
        if (found.length < run.length)
          throw damaged(offset + done, run.length, `${run.file.path} ends within them`);
        found.copy(bytes, done);
      }
      done += run.length;
    }
    return bytes;
  }

  #unpack(run: PackedExtent, at: number): Buffer {
    const last = this.#last;
    if (last && last.of.file === run.file && last.of.offset === run.offset && last.of.codec === run.codec)
      return last.bytes;
    const packed = run.file.read(run.offset, run.packedLength);
    const bytes = loadAddon().unpack(CODECS.indexOf(run.codec), packed, run.unpackedLength);
    if (!bytes)
      throw damaged(
        at,
        run.length,
        `the ${run.codec} block at byte ${run.offset} of ${run.file.path} is damaged`,
      );
    this.#last = { of: run, bytes };
    return bytes;
  }
}

function damaged(offset: number, length: number, why: string): AsofError {
  return new AsofError('DAMAGED', `the ${length} bytes at offset ${offset} cannot be vouched for: ${why}`);
}
