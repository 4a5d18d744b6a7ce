/**
 * Ex01, version 2 of the Expert Witness Compression Format, of EnCase 7 and later, in any number of segments (libyal/libewf,
 * documentation/Expert Witness Compression Format 2 (EWF2).asciidoc).
 *
 * The disk is cut into chunks, each packed, plain with a checksum, or eight bytes that fill it; tables say where they lie and
 * which they are. What is missing or damaged is an error for its own sectors.
 */
import { basename } from 'node:path';
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { badRuns, countBad } from './ewf-bad.js';
import { EWF2, laterSegments } from './ewf-segment.js';
import {
  ENCRYPTED,
  MAGIC,
  type Method,
  type Section,
  sectionsOf,
  segmentHeader,
  TYPE,
} from './ewf2-section.js';
import { Ewf2Layer, entriesOf, type Span, spansOf, type Table, tableIn } from './ewf2-table.js';
import { digestIn, errorsIn, textIn } from './ewf2-text.js';
import type { Finding } from './finding.js';
import type { Image, ImageFormat, StoredDigest } from './format.js';
import { lostRanges } from './lost.js';

/** Bytes of a chunk: one read of a hostile image allocates no more. EnCase writes 512 KiB at most. */
const MOST_CHUNK = 32 * 2 ** 20;

/** Attributes for people: of the device and of the case. */
const NAMES: readonly (readonly [key: string, name: string])[] = [
  ['cn', 'case'],
  ['en', 'evidence'],
  ['nm', 'description'],
  ['ex', 'examiner'],
  ['nt', 'notes'],
  ['tt', 'acquired'],
  ['at', 'system date'],
  ['av', 'program'],
  ['os', 'platform'],
  ['md', 'model'],
  ['sn', 'serial'],
  ['lb', 'label'],
];
const MEDIA: Readonly<Record<string, string>> = {
  a: 'RAM disk',
  c: 'optical',
  f: 'fixed',
  l: 'logical evidence',
  m: 'memory',
  p: 'PALM',
  r: 'removable',
};

export const ewf2: ImageFormat = {
  name: 'ewf2',
  aliases: ['ex01'],
  probe(file) {
    if (file.read(0, 8).toString('latin1') !== MAGIC && !/\.ex01$/i.test(file.path)) return 'no';
    return notFirst(file) ?? 'yes';
  },
  open(file, { companion }): Image {
    const wrong = notFirst(file);
    if (wrong) throw wrong;
    const contents = new Contents(file);
    const places = [{ file, why: '' }, ...laterSegments(file, companion, EWF2)];
    const stated = places.map(place => (place.file ? segmentHeader(place.file)?.number : undefined));
    for (const [i, { file: segment }] of places.entries()) {
      if (!segment) continue;
      // The same segment twice would claim its chunks twice: the one in its own place is used.
      const number = stated[i] ?? 0;
      const other = stated[number - 1] === number ? number - 1 : stated.indexOf(number);
      if (number > 0 && other !== i) contents.double(segment, i + 1, number);
      else contents.add(segment, i + 1);
    }
    // The last place is always empty.
    for (const { file: segment, why } of contents.ended ? places.slice(0, -1) : places)
      if (!segment) contents.missing(file, why);
    const { size, sectorSize, chunk, chunks, media } = contents.geometry();
    const spans = spansOf(contents.tables, chunks, contents.lost || 'no table names it');
    const bad = badRuns(contents.sectors, sectorSize, size);
    const layer = new Ewf2Layer(file, spans, { size, chunk, method: contents.method, bad });
    const gone = spans.flatMap(({ table, first, end, why }) =>
      table ? [] : [`${end - first} of ${chunks} chunks are lost: ${why}`],
    );
    return {
      file,
      format: 'ewf2',
      size,
      sectorSize: sectorSize === 4096 ? 4096 : 512,
      features: [
        `segments=${contents.segments}`,
        `chunk-size=${chunk}`,
        `bytes-per-sector=${sectorSize}`,
        `compression=${contents.method}`,
        ...(media ? [`media=${media}`] : []),
      ],
      layer,
      snapshots: [],
      parent: undefined,
      dataFile: undefined,
      metadata: [
        ...contents.metadata(),
        ...contents.digests.map(({ algorithm, value }) => [algorithm, value] as const),
        ['segment set', contents.set],
        ...(contents.sectors.length > 0
          ? [['bad sectors', String(countBad(contents.sectors))] as const]
          : []),
      ],
      digests: contents.digests,
      troubles: [...contents.findings.map(({ member, what }) => `${basename(member)}: ${what}`), ...gone],
      check: () => examine(file, contents.findings, spans, layer),
    };
  },
};

function notFirst(file: ImageFile): AsofError | undefined {
  const header = segmentHeader(file);
  if (!header) {
    return new AsofError(
      'IMAGE_CORRUPT',
      `${file.path} is no segment of an Ex01 image`,
      '--format raw shows the bytes of the file itself',
    );
  }
  if (header.major !== 2 || header.method === undefined) {
    const what =
      header.major !== 2
        ? `version ${header.major} is not 2`
        : `compression ${header.methodNumber} is none of 0 (none), 1 (zlib), 2 (bzip2)`;
    return new AsofError('IMAGE_UNSUPPORTED', `${file.path}: ${what}`);
  }
  if (header.number === 1) return undefined;
  const what = `${file.path} is segment ${header.number} of an Ex01 image`;
  return new AsofError('IMAGE_CORRUPT', what, 'name the first segment, such as NAME.Ex01');
}

/** What the sections of all segments say. */
class Contents {
  readonly tables: Table[] = [];
  readonly digests: StoredDigest[] = [];
  readonly findings: Finding[] = [];
  /** Runs of sectors that could not be read when the image was made: first and count alternate. */
  readonly sectors: number[] = [];
  readonly method: Method;
  readonly set: string;
  segments = 0;
  /** The last segment of all has been met. */
  ended = false;
  /** Why a part of the tables is not there. */
  lost = '';
  readonly #file: ImageFile;
  readonly #device = new Map<string, string>();
  readonly #case = new Map<string, string>();

  constructor(file: ImageFile) {
    const { method, set } = segmentHeader(file)!;
    this.#file = file;
    this.method = method!;
    this.set = set;
  }

  /** `place`: the number that its name gives it. */
  add(file: ImageFile, place: number): void {
    const header = segmentHeader(file);
    const why = !header
      ? 'it is no segment of an Ex01 image'
      : header.set !== this.set
        ? 'it is a segment of another image: its header says so'
        : header.method !== this.method
          ? 'it says that its chunks are packed in another way than those of the first segment'
          : undefined;
    if (why !== undefined) {
      this.trouble('defect', file, `${why}, and is not used`);
      this.lost ||= `${file.path}: ${why}`;
      return;
    }
    this.segments++;
    // Tables say which chunks they have: a segment under another one's name is as good as under its own.
    if (header?.number !== place)
      this.trouble(
        'defect',
        file,
        `it stands where segment ${place} belongs and says that it is segment ${header?.number}: it is used as that`,
      );
    const { sections, lost } = sectionsOf(file);
    for (const section of sections) this.#section(file, section);
    if (lost === undefined) return;
    this.trouble('defect', file, lost);
    this.lost ||= `${file.path}: ${lost}`;
  }

  double(file: ImageFile, place: number, number: number): void {
    const why = `it stands where segment ${place} belongs and says that it is segment ${number}, which is there`;
    this.trouble('defect', file, `${why}; it is not used`);
    this.lost ||= `${file.path}: ${why}`;
  }

  missing(first: ImageFile, why: string): void {
    this.trouble('defect', first, why);
    this.lost ||= why;
  }

  #section(file: ImageFile, section: Section): void {
    if (section.flags & ENCRYPTED)
      throw new AsofError('IMAGE_ENCRYPTED', `${file.path} is encrypted`, 'decrypt it with EnCase first');
    switch (section.type) {
      case TYPE.device:
        this.#text(file, section, this.#device, 'device information');
        break;
      case TYPE.case:
        this.#text(file, section, this.#case, 'case data');
        break;
      case TYPE.table: {
        const table = tableIn(file, section);
        if (typeof table !== 'string') this.tables.push(table);
        else {
          this.findings.push({ severity: 'defect', kind: 'table', member: file.path, what: table, count: 1 });
          this.lost ||= table;
        }
        break;
      }
      case TYPE.errors: {
        const runs = errorsIn(file, section);
        if (runs) this.sectors.push(...runs);
        else
          this.trouble('defect', file, 'the list of sectors that could not be read at the time is damaged');
        break;
      }
      case TYPE.md5:
        this.#digest(file, section, 'md5', 16);
        break;
      case TYPE.sha1:
        this.#digest(file, section, 'sha1', 20);
        break;
      case TYPE.done:
        this.ended = true;
        break;
    }
  }

  /** The first segment's words are the image's; others repeat them. */
  #text(file: ImageFile, section: Section, into: Map<string, string>, name: string): void {
    if (into.size > 0) return;
    const found = textIn(file, section, this.method);
    if (!found) this.trouble('defect', file, `the ${name} cannot be read`);
    for (const [key, value] of found ?? []) into.set(key, value);
  }

  #digest(file: ImageFile, section: Section, algorithm: StoredDigest['algorithm'], length: number): void {
    const value = digestIn(file, section, length);
    if (value === undefined)
      this.trouble('defect', file, `the ${algorithm.toUpperCase()} is damaged and not used`);
    // Zeros stand for a digest that was not taken.
    else if (/[^0]/.test(value)) this.digests.push({ algorithm, value });
  }

  /** Throws IMAGE_CORRUPT or IMAGE_UNSUPPORTED where one cannot calculate with the numbers. */
  geometry() {
    const path = this.#file.path;
    const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${path}: ${what}`);
    const number = (from: ReadonlyMap<string, string>, key: string, name: string): number => {
      const text = from.get(key);
      if (text === undefined || !/^\d{1,19}$/.test(text))
        throw corrupt(`no sound section says ${name}${text ? `: ${JSON.stringify(text)}` : ''}`);
      return Number(text);
    };
    const kind = this.#device.get('dt');
    if (kind === 'l')
      throw new AsofError('IMAGE_UNSUPPORTED', `${path} is logical evidence: it holds files, and no disk`);
    const sectors = number(this.#device, 'ts', 'how many sectors the disk has');
    const sectorSize = number(this.#device, 'bp', 'how long a sector is');
    const perChunk = number(this.#case, 'sb', 'how many sectors a chunk has');
    if (sectorSize < 512 || sectorSize > 65536 || sectorSize % 512 !== 0)
      throw corrupt(`sectors of ${sectorSize} bytes are not a multiple of 512 up to 65536`);
    const size = sectors * sectorSize;
    if (!Number.isSafeInteger(size)) throw corrupt(`${sectors} sectors are beyond 2^53 bytes`);
    const chunk = perChunk * sectorSize;
    if (chunk === 0) throw corrupt('a chunk has no sectors');
    if (chunk > MOST_CHUNK)
      throw new AsofError(
        'IMAGE_UNSUPPORTED',
        `${path}: chunks of ${chunk} bytes are larger than ${MOST_CHUNK}`,
      );
    const chunks = Math.ceil(size / chunk);
    const stated = this.#case.get('tb');
    if (stated && Number(stated) !== chunks)
      this.trouble('note', this.#file, `it states ${stated} chunks, where ${chunks} hold its sectors`);
    return { size, sectorSize, chunk, chunks, media: kind === undefined ? undefined : (MEDIA[kind] ?? kind) };
  }

  metadata(): (readonly [string, string])[] {
    const values = new Map([...this.#device, ...this.#case]);
    return NAMES.flatMap(([key, name]) => {
      const value = values.get(key)?.trim();
      if (!value) return [];
      const isTime = (key === 'tt' || key === 'at') && /^\d{5,12}$/.test(value);
      return [[name, isTime ? new Date(Number(value) * 1000).toISOString() : value] as const];
    });
  }

  trouble(severity: Finding['severity'], file: ImageFile, what: string): void {
    this.findings.push({ severity, kind: 'image', member: file.path, what, count: 1 });
  }
}

/** Tables, and what of the disk cannot be read; no chunk is unpacked. */
function* examine(
  file: ImageFile,
  findings: readonly Finding[],
  spans: readonly Span[],
  layer: Ewf2Layer,
): Generator<Finding, void, undefined> {
  yield* findings;
  for (const { table } of spans) {
    const entries = table ? entriesOf(table) : '';
    if (typeof entries === 'string' && table)
      yield { severity: 'defect', kind: 'table', member: table.file.path, what: entries, count: 1 };
  }
  yield* lostRanges(layer, file);
}
