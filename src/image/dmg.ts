/**
 * DMG, the disk images of macOS (UDIF, made by hdiutil): chunks, packed one by one or plain, tables of them in a property list
 * behind the data, and a trailer that finds both.
 *
 * Zlib, bzip2 and xz chunks are verified as they are read, by the checksum in their stream. ADC, LZFSE and plain ones have none:
 * what is left is the CRC-32 of each part of the disk, which `asof check --deep` compares.
 */
import type { LayerExtent, PackedExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { checkRange, type Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import { loadAddon } from '../native.js';
import { examineBlocks } from './blocks.js';
import { type Chunks, KIND, type Part, type Tables, tablesIn } from './dmg-table.js';
import { bearsTrailer, CRC32, type Trailer, trailerOf } from './dmg-trailer.js';
import type { Image, ImageFormat, StoredDigest } from './format.js';
import { firstBehind } from './sorted-ends.js';

/** Bytes of a chunk, unpacked: one read of a hostile image allocates no more. hdiutil writes 1 MiB at most. */
const MOST_CHUNK = 32 * 2 ** 20;

const CODEC: Readonly<Record<number, PackedExtent['codec']>> = {
  [KIND.adc]: 'adc',
  [KIND.zlib]: 'zlib',
  [KIND.bzip2]: 'bzip2',
  [KIND.lzfse]: 'lzfse',
  [KIND.xz]: 'xz',
};

export const dmg: ImageFormat = {
  name: 'dmg',
  aliases: ['udif'],
  probe(file) {
    try {
      if (bearsTrailer(file)) return trailerOf(file) && 'yes';
      return /\.(dmg|dmgpart|sparseimage|sparsebundle)$/i.test(file.path) ? strange(file) : 'no';
    } catch (error) {
      if (error instanceof AsofError && error.code !== 'IO') return error;
      throw error;
    }
  },
  open(file): Image {
    if (!bearsTrailer(file)) throw strange(file);
    const trailer = trailerOf(file);
    const tables = tablesIn(file.read(trailer.tablesOffset, trailer.tablesLength).toString('utf8'), trailer);
    if (typeof tables === 'string') throw new AsofError('IMAGE_CORRUPT', `${file.path}: ${tables}`);
    const { size, parts, chunks } = tables;
    const layer = new DmgLayer(file, trailer, tables);
    const troubles = [
      ...masterOf(trailer, parts),
      ...parts.flatMap(({ name, why }) => (why ? [`${name}: ${why}`] : [])),
    ];
    return {
      file,
      format: 'dmg',
      size,
      sectorSize: 512,
      features: [
        `parts=${parts.length}`,
        `chunks=${chunks.count}`,
        `compression=${[...new Set(chunks.kind)].flatMap(kind => CODEC[kind] ?? []).join(',') || 'none'}`,
      ],
      layer,
      snapshots: [],
      parent: undefined,
      dataFile: undefined,
      metadata: [
        ...parts.map(
          ({ name, start, end }, i) => [`part ${i}`, `${name}, bytes ${start} to ${end}`] as const,
        ),
        ...(trailer.data.type === CRC32 ? [['packed crc32', trailer.data.value] as const] : []),
      ],
      digests: digestsOf(tables),
      troubles,
      check: () => examineBlocks(file, layer, troubles),
    };
  },
};

function strange(file: ImageFile): AsofError {
  const ends = file.size >= 8 ? file.read(file.size - 8, 8).toString('latin1') : '';
  const head = file.read(0, 8).toString('latin1');
  const hint = '--format raw shows the bytes of the file itself';
  if (head === 'encrcdsa' || ends === 'cdsaencr')
    return new AsofError(
      'IMAGE_ENCRYPTED',
      `${file.path} is an encrypted disk image of macOS`,
      'hdiutil decrypts it',
    );
  if (head.startsWith('sprs') || /\.sparse/i.test(file.path))
    return new AsofError(
      'IMAGE_UNSUPPORTED',
      `${file.path} is a sparse disk image of macOS, which asof cannot read`,
      'hdiutil convert makes a DMG of it',
    );
  return new AsofError(
    'IMAGE_CORRUPT',
    `${file.path} is named as a DMG and has no trailer of one: it may be cut off`,
    hint,
  );
}

/** The parts' checksums have one of their own. */
function masterOf({ master }: Trailer, parts: readonly Part[]): string[] {
  if (master.type !== CRC32 || parts.some(({ checksum }) => checksum.type !== CRC32)) return [];
  const { crc32 } = loadAddon();
  const found = crc32(0, Buffer.from(parts.map(({ checksum }) => checksum.value).join(''), 'hex'));
  if (found === Number.parseInt(master.value, 16)) return [];
  return ['the checksum of its parts’ checksums does not match: a table is damaged, or missing'];
}

/** A part's checksum passes over what the image does not hold at all. */
function digestsOf({ parts, chunks }: Tables): StoredDigest[] {
  const digests: StoredDigest[] = [];
  let i = 0;
  for (const { name, end, checksum, why } of parts) {
    const runs: number[] = [];
    for (; i < chunks.count && chunks.start[i]! < end; i++) {
      if (chunks.kind[i] === KIND.ignore) continue;
      if (runs.at(-1) === chunks.start[i]) runs[runs.length - 1] = chunks.end[i]!;
      else runs.push(chunks.start[i]!, chunks.end[i]!);
    }
    if (checksum.type !== CRC32 || why !== '' || runs.length === 0) continue;
    digests.push({ algorithm: 'crc32', value: checksum.value, runs: Float64Array.from(runs), of: name });
  }
  return digests;
}

class DmgLayer implements Layer {
  readonly size: number;
  readonly #file: ImageFile;
  readonly #trailer: Trailer;
  readonly #parts: readonly Part[];
  readonly #chunks: Chunks;

  constructor(file: ImageFile, trailer: Trailer, { size, parts, chunks }: Tables) {
    this.size = size;
    this.#file = file;
    this.#trailer = trailer;
    this.#parts = parts;
    this.#chunks = chunks;
  }

  extents(offset: number, length: number): Iterable<LayerExtent> {
    checkRange(this.size, offset, length);
    return this.#walk(offset, offset + length);
  }

  close(): void {}

  *#walk(offset: number, end: number): Generator<LayerExtent, void, undefined> {
    const { start, end: ends, count } = this.#chunks;
    for (let i = firstBehind(ends, offset); offset < end; i++) {
      const next = i < count ? Math.max(offset, Math.min(end, start[i]!)) : end;
      if (next > offset)
        yield { kind: 'bad', length: next - offset, why: this.#missing(offset), by: this.#file };
      offset = next;
      if (offset >= end) return;
      const stop = Math.min(end, ends[i]!);
      yield this.#chunk(i, offset, stop - offset);
      offset = stop;
    }
  }

  #missing(offset: number): string {
    const part = this.#parts.find(({ start, end }) => offset >= start && offset < end);
    return `${this.#file.path}: ${part?.why ? `the part ${JSON.stringify(part.name)}: ${part.why}` : 'no table names it'}`;
  }

  #chunk(i: number, offset: number, length: number): LayerExtent {
    const file = this.#file;
    const { kind: kinds, start, end, offset: offsets, length: lengths, twice } = this.#chunks;
    const kind = kinds[i]!;
    const at = offsets[i]!;
    const stored = lengths[i]!;
    const skip = offset - start[i]!;
    const unpackedLength = end[i]! - start[i]!;
    const bad = (why: string): LayerExtent => ({
      kind: 'bad',
      length,
      why: `${file.path}: the chunk at byte ${start[i]} of the disk ${why}`,
      by: file,
    });
    if (kind === KIND.zero || kind === KIND.ignore) {
      return stored === 0
        ? { kind: 'zero', length, by: file }
        : bad(`is zeros, and has ${stored} bytes in the file`);
    }
    const { dataOffset, dataEnd } = this.#trailer;
    if (at < dataOffset || at + stored > dataEnd) return bad('lies outside of the data');
    if (twice[i]) return bad('lies where another chunk lies');
    if (kind === KIND.raw) {
      if (stored !== unpackedLength) return bad(`has ${stored} bytes, not ${unpackedLength}`);
      return { kind: 'data', length, file, offset: at + skip };
    }
    const codec = CODEC[kind];
    if (codec === undefined) return bad(`is of the kind 0x${kind.toString(16)}, which is none`);
    if (unpackedLength > MOST_CHUNK)
      return bad(`unpacks to ${unpackedLength} bytes, more than ${MOST_CHUNK}`);
    if (stored === 0 || stored > mostPacked(unpackedLength)) return bad(`says to have ${stored} bytes`);
    return { kind: 'packed', length, file, offset: at, packedLength: stored, codec, unpackedLength, skip };
  }
}

/** The longest that a packed chunk can sensibly be: data that does not pack, and some slack. */
const mostPacked = (length: number) => length + Math.ceil(length / 16) + 4096;
