/**
 * Where a qcow2 image keeps the clusters of a disk: L1 and L2 tables as a layer of runs.
 *
 * Specification: QEMU, docs/interop/qcow2.rst, "Cluster mapping" and "Extended L2 Entries". Tables are read by
 * pages when a walk comes to them, never whole. Every offset is checked against the file before it is used; an entry
 * that breaks a rule is a `bad` run of what it maps, as is what lies behind the end of the file. Tables that point
 * at each other are merely strange: a walk visits each entry of the range once, whatever it points to.
 */
import type { Codec, LayerExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { checkRange, type Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import { PAGE, type Page, type Pages } from './pages.js';

/** What all the tables of one image share. */
export interface Geometry {
  readonly pages: Pages;
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly extendedL2: boolean;
  readonly codec: Codec;
  /** Where guest clusters lie: the image itself, or the external data file. */
  readonly data: ImageFile;
  /** Places in the image that hold other metadata for certain: nothing of a guest can lie there. */
  readonly taken: readonly Taken[];
}

export interface Taken {
  readonly what: string;
  readonly start: number;
  /** The byte behind the last. */
  readonly end: number;
}

const WHY = {
  l1Reserved: 'the L1 entry has reserved bits set',
  l1Nowhere: 'the L1 entry claims a table at byte 0',
  l1Large: 'the L1 table has more entries than QEMU takes (4194304)',
  l1Short: 'the L1 table has no entry for it',
  l1Gone: 'the L1 table lies beyond the end of the file',
  l1Unaligned: 'the L1 table does not stand at a cluster boundary',
  l2Unaligned: 'the L2 table does not stand at a cluster boundary',
  l2Gone: 'the L2 table lies beyond the end of the file',
  reserved: 'the L2 entry has reserved bits set',
  unaligned: 'the cluster does not stand at a cluster boundary',
  gone: 'the cluster lies beyond the end of the file',
  zeroInV2: 'the L2 entry marks a zero cluster, which version 2 does not have',
  nowhere: 'the L2 entry claims a cluster at byte 0',
  packedGone: 'the compressed cluster lies beyond the end of the file',
  packedInHeader: 'the compressed cluster lies within the header',
  packedOutside: 'the L2 entry marks a compressed cluster in an image with an external data file',
  elsewhere: 'the cluster stands elsewhere in the external data file than on the disk',
  both: 'a subcluster is marked as allocated and as zero',
  allocatedNowhere: 'a subcluster is marked as allocated in a cluster that is not',
} as const;

/** L1 entries that one run crosses: bounds what a caller pays who wants the first run only. */
const STRIDE = 4096;

/** Entries of an L1 table, 32 MiB (QEMU, block/qcow2.h, QCOW_MAX_L1_SIZE): one in a sparse file could take hours to walk. */
const MOST_L1 = 2 ** 22;

const HIGH = 2 ** 32;

export class TableLayer implements Layer {
  readonly size: number;
  readonly #geometry: Geometry;
  readonly #l1Offset: number;
  readonly #l1Entries: number;
  /** Bytes of the disk that an L2 table maps. */
  readonly #reach: number;
  readonly #entrySize: number;

  constructor(geometry: Geometry, size: number, l1Offset: number, l1Entries: number) {
    this.size = size;
    this.#geometry = geometry;
    this.#l1Offset = l1Offset;
    this.#l1Entries = l1Entries;
    this.#entrySize = geometry.extendedL2 ? 16 : 8;
    this.#reach = (geometry.clusterSize / this.#entrySize) * geometry.clusterSize;
  }

  extents(offset: number, length: number): Iterable<LayerExtent> {
    checkRange(this.size, offset, length);
    return this.#walk(offset, offset + length);
  }

  close(): void {}

  *#walk(offset: number, end: number): Generator<LayerExtent, void, undefined> {
    const reach = this.#reach;
    while (offset < end) {
      const index = Math.floor(offset / reach);
      const table = this.#l2Table(index);
      if (typeof table === 'number' && table > 0) {
        const stop = Math.min(end, (index + 1) * reach);
        yield* this.#walkTable(table, offset, stop);
        offset = stop;
        continue;
      }
      const last = Math.min(index + STRIDE, Math.ceil(end / reach));
      const next = table === 0 ? this.#nextTable(index + 1, last) : this.#sameFault(index + 1, last, table);
      const stop = Math.min(end, next * reach);
      yield table === 0 ? { kind: 'absent', length: stop - offset } : this.#bad(String(table), stop - offset);
      offset = stop;
    }
  }

  /** Offset of the L2 table, 0 where there is none, or why it cannot be known. */
  #l2Table(index: number): number | string {
    const { clusterSize, pages, taken } = this.#geometry;
    if (this.#l1Entries > MOST_L1) return WHY.l1Large;
    if (index >= this.#l1Entries) return WHY.l1Short;
    if (this.#l1Offset % clusterSize !== 0) return WHY.l1Unaligned;
    const at = this.#l1Offset + index * 8;
    const page = pageAt(pages, at);
    if (typeof page === 'string') return page;
    const within = at % PAGE;
    if (within + 8 > page.bytes) return WHY.l1Gone;
    const hi = page.words[within / 4]!;
    const lo = page.words[within / 4 + 1]!;
    if (hi === 0 && lo === 0) return 0;
    if ((hi & 0x7f000000) !== 0 || (lo & 0x1ff) !== 0) return WHY.l1Reserved;
    const table = (hi & 0xffffff) * HIGH + lo;
    if (table % clusterSize !== 0) return WHY.l2Unaligned;
    if (table === 0) return WHY.l1Nowhere;
    if (table >= pages.file.size) return WHY.l2Gone;
    const other = taken.find(({ start, end }) => table < end && table + clusterSize > start);
    return other ? `the L2 table lies within ${other.what}` : table;
  }

  /** The first L1 entry from `index` on that is not empty; `last` where there is none before it. */
  #nextTable(index: number, last: number): number {
    last = Math.min(last, this.#l1Entries);
    while (index < last) {
      const at = this.#l1Offset + index * 8;
      const page = pageAt(this.#geometry.pages, at);
      if (typeof page === 'string') return index;
      const { words } = page;
      const first = (at % PAGE) / 4;
      const entries = Math.min(last - index, Math.floor((page.bytes / 4 - first) / 2));
      let word = first;
      const stop = first + entries * 2;
      while (word < stop && words[word] === 0 && words[word + 1] === 0) word += 2;
      index += (word - first) / 2;
      if (word < stop || entries <= 0) return index;
    }
    return index;
  }

  /** The first L1 entry from `index` on that has not the fault `why`. */
  #sameFault(index: number, last: number, why: number | string): number {
    if (why === WHY.l1Short || why === WHY.l1Unaligned || why === WHY.l1Large)
      return Number.MAX_SAFE_INTEGER / this.#reach;
    // What follows an entry beyond the end of the file is beyond it as well.
    if (why === WHY.l1Gone) return this.#l1Entries;
    while (index < last && this.#l2Table(index) === why) index++;
    return index;
  }

  /** The runs of [offset, end), which the L2 table at byte `table` maps; by the page of it. */
  *#walkTable(table: number, offset: number, end: number): Generator<LayerExtent, void, undefined> {
    const { clusterSize, pages } = this.#geometry;
    const entrySize = this.#entrySize;
    const first = offset - (offset % this.#reach);
    while (offset < end) {
      const index = Math.floor((offset - first) / clusterSize);
      const at = table + index * entrySize;
      const within = at % PAGE;
      const entries = Math.min((PAGE - within) / entrySize, Math.ceil((end - first) / clusterSize) - index);
      const page = pageAt(pages, at);
      const held =
        typeof page === 'string' ? 0 : Math.min(entries, Math.floor((page.bytes - within) / entrySize));
      const known = Math.max(offset, Math.min(end, first + (index + held) * clusterSize));
      if (typeof page !== 'string' && known > offset) {
        yield* this.#geometry.extendedL2
          ? this.#walkExtended(page.words, within / 4, offset, known)
          : this.#walkPlain(page.words, within / 4, offset, known);
      }
      const stop = Math.min(end, first + (index + entries) * clusterSize);
      if (known < stop) yield this.#bad(typeof page === 'string' ? page : WHY.l2Gone, stop - known);
      offset = stop;
    }
  }

  /**
   * Entries of eight bytes from `word` on. What most entries are (no cluster, or a cluster that follows the one
   * before) is joined here, without an object for each.
   */
  *#walkPlain(
    words: Uint32Array,
    word: number,
    offset: number,
    end: number,
  ): Generator<LayerExtent, void, undefined> {
    const { clusterSize, data, pages } = this.#geometry;
    const inside = data === pages.file;
    let cluster = offset - (offset % clusterSize);
    while (offset < end) {
      const hi = words[word]!;
      const lo = words[word + 1]!;
      if (hi === 0 && lo === 0) {
        do {
          word += 2;
          cluster += clusterSize;
        } while (cluster < end && words[word] === 0 && words[word + 1] === 0);
        const stop = Math.min(cluster, end);
        yield { kind: 'absent', length: stop - offset };
        offset = stop;
        continue;
      }
      let host = (hi & 0xffffff) * HIGH + lo;
      if (inside && host !== 0 && (hi & 0x7f000000) === 0 && (lo & 0x1ff) === 0 && host % clusterSize === 0) {
        const from = host + (offset - cluster);
        do {
          word += 2;
          cluster += clusterSize;
          host += clusterSize;
        } while (
          cluster < end &&
          (words[word]! & 0x7fffffff) * HIGH + words[word + 1]! === host &&
          host < 2 ** 56
        );
        const stop = Math.min(cluster, end);
        yield* this.#plain(from, stop - offset);
        offset = stop;
        continue;
      }
      const stop = Math.min(cluster + clusterSize, end);
      yield* this.#single(hi, lo, cluster, offset, stop);
      word += 2;
      cluster += clusterSize;
      offset = stop;
    }
  }

  /** One entry that is neither nothing nor a plain cluster of the image. */
  *#single(
    hi: number,
    lo: number,
    cluster: number,
    offset: number,
    end: number,
  ): Generator<LayerExtent, void, undefined> {
    const length = end - offset;
    if ((hi & 0x40000000) !== 0) {
      yield this.#packed(hi, lo, offset - cluster, length);
      return;
    }
    const zero = (lo & 1) !== 0;
    const host = this.#hostOf(hi, (lo & ~1) >>> 0, cluster);
    if (typeof host === 'string') yield this.#bad(host, length);
    else if (zero && this.#geometry.version < 3) yield this.#bad(WHY.zeroInV2, length);
    else if (zero) yield { kind: 'zero', length, by: this.#geometry.pages.file };
    else if (host < 0) yield { kind: 'absent', length };
    else yield* this.#plain(host + (offset - cluster), length);
  }

  /** Entries of sixteen bytes: a descriptor and a bitmap of subclusters, 32 to a cluster. */
  *#walkExtended(
    words: Uint32Array,
    word: number,
    offset: number,
    end: number,
  ): Generator<LayerExtent, void, undefined> {
    const { clusterSize, pages } = this.#geometry;
    for (let cluster = offset - (offset % clusterSize); offset < end; cluster += clusterSize, word += 4) {
      const hi = words[word]!;
      const lo = words[word + 1]!;
      const zeros = words[word + 2]!;
      const allocated = words[word + 3]!;
      const stop = Math.min(cluster + clusterSize, end);
      const length = stop - offset;
      const host = (hi & 0x40000000) !== 0 ? 0 : this.#hostOf(hi, lo, cluster);
      if ((hi & 0x40000000) !== 0) yield this.#packed(hi, lo, offset - cluster, length);
      else if (typeof host === 'string') yield this.#bad(host, length);
      else if ((zeros & allocated) !== 0) yield this.#bad(WHY.both, length);
      else if (host < 0 && allocated !== 0) yield this.#bad(WHY.allocatedNowhere, length);
      else if (zeros === 0 && allocated === 0) yield { kind: 'absent', length };
      else if (zeros === 0xffffffff && allocated === 0) yield { kind: 'zero', length, by: pages.file };
      else if (allocated === 0xffffffff) {
        yield* this.#plain(host + (offset - cluster), length);
      } else yield* this.#subclusters(host, zeros, allocated, cluster, offset, stop);
      offset = stop;
    }
  }

  /** The runs of a cluster whose bitmap is mixed and does not contradict itself: a bitmap that does says nothing. */
  *#subclusters(
    host: number,
    zeros: number,
    allocated: number,
    cluster: number,
    offset: number,
    end: number,
  ): Generator<LayerExtent, void, undefined> {
    const size = this.#geometry.clusterSize / 32;
    const state = (sub: number) => ((zeros >>> sub) & 1) * 2 + ((allocated >>> sub) & 1);
    while (offset < end) {
      const sub = Math.floor((offset - cluster) / size);
      let next = sub + 1;
      while (next < 32 && state(next) === state(sub)) next++;
      const stop = Math.min(end, cluster + next * size);
      const length = stop - offset;
      if (state(sub) === 1) yield* this.#plain(host + (offset - cluster), length);
      else if (state(sub) === 2) yield { kind: 'zero', length, by: this.#geometry.pages.file };
      else yield { kind: 'absent', length };
      offset = stop;
    }
  }

  /** Offset of the cluster of a standard descriptor, -1 where it has none, or why it cannot be believed. */
  #hostOf(hi: number, lo: number, cluster: number): number | string {
    const { clusterSize, data, pages } = this.#geometry;
    if ((hi & 0x3f000000) !== 0 || (lo & 0x1ff) !== 0) return WHY.reserved;
    const host = (hi & 0xffffff) * HIGH + lo;
    const external = data !== pages.file;
    if (host === 0 && (hi & 0x80000000) === 0) return -1;
    if (host === 0 && !external) return WHY.nowhere;
    if (host % clusterSize !== 0) return WHY.unaligned;
    if (external && host !== cluster) return WHY.elsewhere;
    return host;
  }

  #packed(hi: number, lo: number, skip: number, length: number): LayerExtent {
    const { clusterBits, clusterSize, codec, data, pages } = this.#geometry;
    const { file } = pages;
    if (data !== file) return this.#bad(WHY.packedOutside, length);
    // The upper of the 62 bits count sectors; the field begins in the upper word, for clusters of any size.
    const shift = 62 - (clusterBits - 8) - 32;
    const offset = (hi & (2 ** shift - 1)) * HIGH + lo;
    const sectors = ((hi & 0x3fffffff) >>> shift) + 1;
    if (offset >= file.size) return this.#bad(WHY.packedGone, length);
    if (offset < clusterSize) return this.#bad(WHY.packedInHeader, length);
    const end = offset - (offset % 512) + sectors * 512;
    // The last sector is counted whole; the file may end within it.
    if (end - file.size >= 512) return this.#bad(WHY.packedGone, length);
    return {
      kind: 'packed',
      length,
      file,
      offset,
      packedLength: Math.min(end, file.size) - offset,
      codec,
      unpackedLength: clusterSize,
      skip,
    };
  }

  /** Plain bytes of the data file, as far as it has them and they are not metadata. */
  *#plain(offset: number, length: number): Generator<LayerExtent, void, undefined> {
    const { data, pages, taken } = this.#geometry;
    const held = Math.max(0, Math.min(length, data.size - offset));
    const other =
      data === pages.file ? taken.find(({ start, end }) => offset < end && offset + held > start) : undefined;
    if (other) {
      const before = Math.max(0, other.start - offset);
      const within = Math.min(offset + held, other.end) - (offset + before);
      if (before > 0) yield* this.#plain(offset, before);
      yield this.#bad(`the cluster lies within ${other.what}`, within);
      const rest = held - before - within;
      if (rest > 0) yield* this.#plain(offset + before + within, rest);
    } else if (held > 0) {
      yield { kind: 'data', length: held, file: data, offset };
    }
    if (held < length) {
      yield this.#bad(
        data === pages.file ? WHY.gone : 'the external data file ends before it',
        length - held,
      );
    }
  }

  #bad(why: string, length: number): LayerExtent {
    return { kind: 'bad', length, why, by: this.#geometry.pages.file };
  }
}

/** The page that holds byte `at`, or why it cannot be read. */
function pageAt(pages: Pages, at: number): Page | string {
  try {
    return pages.page(Math.floor(at / PAGE));
  } catch (error) {
    if (error instanceof AsofError && error.code === 'IO') return error.message;
    throw error;
  }
}
