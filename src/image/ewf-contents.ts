/**
 * What the sections of all segments of an EWF image hold, in order: groups of chunks, each with its table, and gaps where
 * a part of the chain of sections cannot be known; and beside them what is said of the disk as a whole.
 */
import { inflateSync } from 'node:zlib';
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { adler32 } from './adler32.js';
import { parseHeader } from './ewf-header.js';
import { dataOf, type Section, sections } from './ewf-section.js';
import { parseVolume, sameSet, VOLUME_BYTES, type Volume } from './ewf-volume.js';
import type { Finding } from './finding.js';
import type { StoredDigest } from './format.js';

/** Sections of all segments: a file can claim one every 76 bytes. 8 TiB in chunks of 32 KiB take 50,000. */
const MOST_SECTIONS = 2 ** 20;

/** Runs of sectors that one list of an acquiry names. */
const MOST_BAD = 2 ** 20;

/** Bytes of a packed header. */
const MOST_HEADER = 2 ** 20;

export const TABLE_HEADER = 24;

/** A table in the file of its group: where its header stands, and how many bytes the section has. */
export interface TableAt {
  readonly at: number;
  readonly room: number;
}

/** Chunks that one table names. */
export interface Group {
  readonly kind: 'group';
  readonly file: ImageFile;
  readonly count: number;
  /** The table, and its copy where there is one. */
  readonly tables: TableAt[];
  /** The bytes of the file in which the chunks lie. */
  readonly from: number;
  readonly to: number;
}

/** Nobody knows how many chunks are missing here. */
export interface Gap {
  readonly kind: 'gap';
  readonly why: string;
}

export interface Trouble {
  readonly severity: Finding['severity'];
  readonly kind: Finding['kind'];
  readonly member: string;
  readonly what: string;
}

export class Contents {
  readonly parts: (Group | Gap)[] = [];
  readonly metadata = new Map<string, string>();
  readonly digests: StoredDigest[] = [];
  /** Runs of sectors that could not be read when the image was made: first and count alternate. */
  readonly badSectors: number[] = [];
  readonly troubles: Trouble[] = [];
  /** The last section of all has been met. */
  ended = false;
  volume: Volume | undefined;
  #sections = 0;

  /** Reads the sections of one segment, the first first. */
  add(file: ImageFile, first: boolean): void {
    const { parts } = this;
    const before = parts.length;
    /** The section of chunks that the next table is for. */
    let chunks: Section | undefined;
    /** What the last section left open: a table whose copy may follow. */
    let open: { readonly group?: Group; readonly damaged?: Section } = {};
    const settle = () => {
      if (open.damaged) parts.push({ kind: 'gap', why: `${file.path}: ${tableAt(open.damaged)} is damaged` });
      open = {};
    };
    for (const section of sections(file)) {
      if (++this.#sections > MOST_SECTIONS) {
        throw new AsofError('IMAGE_UNSUPPORTED', `${file.path}: more than ${MOST_SECTIONS} sections`);
      }
      if (section.kind === 'break') {
        settle();
        parts.push({ kind: 'gap', why: `${file.path}: ${section.why}` });
        this.#trouble('defect', 'image', file, `${section.why}; the rest of this segment is lost`);
        return;
      }
      const { type } = section;
      if (type !== 'table2') settle();
      if (type === 'sectors') chunks = section;
      else if (type === 'table' || type === 'table2') {
        const group = groupOf(file, section, chunks);
        if (type === 'table') {
          if (group) parts.push(group);
          open = group ? { group } : { damaged: section };
          continue;
        }
        if (!group) this.#trouble('defect', 'table', file, `${tableAt(section)}, a copy, is damaged`);
        else if (open.group?.count === group.count) open.group.tables.push(...group.tables);
        else if (!open.group) {
          this.#trouble(
            'defect',
            'table',
            file,
            `${tableAt(open.damaged ?? section)} is damaged, its copy is used`,
          );
          parts.push(group);
          open = {};
        }
        settle();
      } else if (type === 'done') this.ended = true;
      else if (!this.#whole(file, section, first)) {
        const why = `${file.path} is a segment of another image: its data section says so`;
        parts.splice(before, parts.length, { kind: 'gap', why });
        this.#trouble('defect', 'image', file, 'it is a segment of another image and is not used');
        return;
      }
    }
    settle();
  }

  /** What a section says of the disk as a whole. False where it says that the segment is of another image. */
  #whole(file: ImageFile, section: Section, first: boolean): boolean {
    switch (section.type) {
      case 'volume':
      case 'disk':
      case 'data': {
        const volume = parseVolume(this.#data(file, section, VOLUME_BYTES));
        // Some machines write no checksum into the section data, which only repeats the volume (EWF, "Data section").
        if (!volume) {
          if (section.type !== 'data')
            this.#trouble('defect', 'image', file, `the section ${section.type} is damaged`);
          return true;
        }
        if (!this.volume) this.volume = volume;
        else if (!sameSet(this.volume, volume)) {
          if (!first) return false;
          this.#trouble('defect', 'image', file, `the section ${section.type} contradicts the one before`);
        }
        return true;
      }
      case 'header2':
      case 'header':
        if (!first || section.end - section.data > MOST_HEADER) return true;
        // The second form, which comes first, says more.
        for (const [name, value] of parseHeader(this.#data(file, section, MOST_HEADER)))
          if (!this.metadata.has(name)) this.metadata.set(name, value);
        return true;
      case 'error2':
        this.#badSectors(file, section);
        return true;
      case 'hash':
        this.#digest(file, section, 32, [['md5', 0, 16]]);
        return true;
      case 'digest':
        this.#digest(file, section, 76, [
          ['md5', 0, 16],
          ['sha1', 16, 36],
        ]);
        return true;
      case 'xhash':
        this.#xhash(this.#data(file, section, MOST_HEADER));
        return true;
      default:
        return true;
    }
  }

  #badSectors(file: ImageFile, section: Section): void {
    const list = this.#badList(file, section);
    if (!list) {
      const what = 'the list of sectors that could not be read at the time is damaged';
      this.#trouble('defect', 'image', file, what);
      return;
    }
    for (let at = 0; at + 8 <= list.length; at += 8)
      this.badSectors.push(list.readUInt32LE(at), list.readUInt32LE(at + 4));
  }

  /** The entries of a list of bad sectors; undefined where a checksum is wrong. */
  #badList(file: ImageFile, section: Section): Buffer | undefined {
    const head = this.#data(file, section, 520);
    if (head.length < 520 || adler32(head.subarray(0, 516)) !== head.readUInt32LE(516)) return undefined;
    const count = head.readUInt32LE(0);
    if (count > MOST_BAD) {
      const what = `${file.path}: ${count} runs of bad sectors are more than ${MOST_BAD}`;
      throw new AsofError('IMAGE_UNSUPPORTED', what);
    }
    const end = 520 + count * 8;
    const bytes = this.#data(file, section, end + 4);
    if (bytes.length < end + 4) return undefined;
    const list = bytes.subarray(520, end);
    return adler32(list) === bytes.readUInt32LE(end) ? list : undefined;
  }

  #digest(
    file: ImageFile,
    section: Section,
    length: number,
    fields: readonly (readonly [StoredDigest['algorithm'], number, number])[],
  ): void {
    const bytes = this.#data(file, section, length + 4);
    if (bytes.length < length + 4 || adler32(bytes.subarray(0, length)) !== bytes.readUInt32LE(length)) {
      this.#trouble(
        'defect',
        'image',
        file,
        `the section ${section.type} is damaged: its digests are not used`,
      );
      return;
    }
    for (const [algorithm, from, to] of fields) this.#keep(algorithm, bytes.toString('hex', from, to));
  }

  #xhash(packed: Buffer): void {
    let text: string;
    try {
      text = inflateSync(packed, { maxOutputLength: MOST_HEADER }).toString('latin1');
    } catch {
      return;
    }
    for (const algorithm of ['md5', 'sha1'] as const) {
      const found = new RegExp(`<${algorithm}>([0-9a-f]+)</${algorithm}>`, 'i').exec(text);
      if (found?.[1]?.length === (algorithm === 'md5' ? 32 : 40))
        this.#keep(algorithm, found[1].toLowerCase());
    }
  }

  /** Zeros stand for a digest that was not taken. */
  #keep(algorithm: StoredDigest['algorithm'], value: string): void {
    const known = this.digests.some(one => one.algorithm === algorithm && one.value === value);
    if (!known && /[^0]/.test(value)) this.digests.push({ algorithm, value });
  }

  /** Nothing where the file cannot be read there: what is checked then does not match. */
  #data(file: ImageFile, section: Section, length: number): Buffer {
    try {
      return dataOf(file, section, 0, length);
    } catch (error) {
      if (error instanceof AsofError && error.code === 'IO') return Buffer.alloc(0);
      throw error;
    }
  }

  #trouble(severity: Trouble['severity'], kind: Trouble['kind'], file: ImageFile, what: string): void {
    this.troubles.push({ severity, kind, member: file.path, what });
  }
}

const tableAt = ({ data }: Section) => `the table at byte ${data}`;

/** The group of one table; undefined where its header cannot be believed. */
function groupOf(file: ImageFile, section: Section, chunks: Section | undefined): Group | undefined {
  let head: Buffer;
  try {
    head = dataOf(file, section, 0, TABLE_HEADER);
  } catch (error) {
    if (error instanceof AsofError && error.code === 'IO') return undefined;
    throw error;
  }
  const count = countOf(head);
  const room = section.end - section.data;
  if (count === undefined || TABLE_HEADER + count * 4 > room) return undefined;
  // EnCase 1 and SMART keep the chunks in the section of their table.
  const { data: from, end: to } = chunks ?? section;
  return { kind: 'group', file, count, tables: [{ at: section.data, room }], from, to };
}

/** How many entries a table's header states; undefined where its checksum is wrong. */
export function countOf(head: Buffer): number | undefined {
  if (head.length < TABLE_HEADER || adler32(head.subarray(0, 20)) !== head.readUInt32LE(20)) return undefined;
  return head.readUInt32LE(0);
}
