/**
 * EWF, the Expert Witness Compression Format: E01 of EnCase 1 to 7, FTK Imager and linen, and SMART's s01, in any number
 * of segments (libyal/libewf, documentation/Expert Witness Compression Format (EWF).asciidoc).
 *
 * The disk is cut into chunks, each a zlib stream or plain with a checksum; tables say where they lie. Opening reads the
 * headers of sections only; a table is read when a chunk of it is asked for, and a chunk is verified by the engine when
 * it is read. What is missing or damaged is an error for its own sectors.
 */

import { basename } from 'node:path';
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { badRuns, countBad } from './ewf-bad.js';
import { Contents, type Group, type Trouble } from './ewf-contents.js';
import { EwfLayer, type Span, spansOf } from './ewf-map.js';
import { laterSegments, MAGIC, type Place, segmentNumber } from './ewf-segment.js';
import { readTable } from './ewf-table.js';
import type { Volume } from './ewf-volume.js';
import type { Finding } from './finding.js';
import type { Image, ImageFormat } from './format.js';
import { lostRanges } from './lost.js';

/** Bytes of a chunk: one read of a hostile image allocates no more. EnCase writes 16 MiB at most. */
const MOST_CHUNK = 32 * 2 ** 20;

export const ewf: ImageFormat = {
  name: 'ewf',
  probe(file) {
    // Taken for raw, a segment whose first bytes are damaged would show its tables as a disk.
    if (file.read(0, 8).toString('latin1') !== MAGIC && !/\.[es]01$/i.test(file.path)) return 'no';
    return notFirst(file) ?? 'yes';
  },
  open(file, { companion }): Image {
    const wrong = notFirst(file);
    if (wrong) throw wrong;
    const contents = new Contents();
    const places = inOrder([{ file, why: '' }, ...laterSegments(file, companion)], contents.troubles);
    for (const [i, { file: segment, why }] of places.entries()) {
      if (contents.ended) {
        if (segment) note(contents, segment, 'it lies behind the last segment of the image and is not used');
      } else if (segment) contents.add(segment, i === 0);
      else contents.parts.push({ kind: 'gap', why });
    }
    const volume = sound(file, contents);
    const chunk = volume.sectorsPerChunk * volume.bytesPerSector;
    const size = volume.sectors * volume.bytesPerSector;
    const total = Math.ceil(volume.sectors / volume.sectorsPerChunk);
    if (total !== volume.chunks)
      note(contents, file, `it states ${volume.chunks} chunks, where ${total} hold its sectors`);
    const spans = spansOf(contents.parts, total, contents.ended && total === volume.chunks);
    const layer = new EwfLayer(file, spans, {
      size,
      chunk,
      loose: volume.short,
      bad: badRuns(contents.badSectors, volume.bytesPerSector, size),
    });
    const tail = layer.tail();
    const segments = places.filter(place => place.file).length;
    return {
      file,
      format: 'ewf',
      size,
      sectorSize: volume.bytesPerSector === 4096 ? 4096 : 512,
      features: [
        `segments=${segments}`,
        `chunk-size=${chunk}`,
        `bytes-per-sector=${volume.bytesPerSector}`,
        ...(volume.media ? [`media=${volume.media}`] : []),
      ],
      layer,
      snapshots: [],
      parent: undefined,
      dataFile: undefined,
      metadata: [
        ...contents.metadata,
        ...contents.digests.map(({ algorithm, value }) => [algorithm, value] as const),
        ...(volume.set ? [['segment set', volume.set] as const] : []),
        ...(contents.badSectors.length > 0
          ? [['bad sectors', String(countBad(contents.badSectors))] as const]
          : []),
      ],
      digests: contents.digests.map(digest =>
        tail.length > 0 && tail.length < volume.bytesPerSector ? { ...digest, tail } : digest,
      ),
      troubles: [
        ...contents.troubles.map(({ member, what }) => `${basename(member)}: ${what}`),
        ...spans.flatMap(({ group, why, first, end }) =>
          group ? [] : [`${end - first} of ${total} chunks are lost: ${why}`],
        ),
      ],
      check: () => examine(file, contents.troubles, spans, layer, volume.short),
    };
  },
};

function notFirst(file: ImageFile): AsofError | undefined {
  const number = segmentNumber(file);
  if (number === 1) return undefined;
  const what =
    number === undefined ? 'is no segment of an EWF image' : `is segment ${number} of an EWF image`;
  const hint =
    number === undefined
      ? '--format raw shows the bytes of the file itself'
      : 'name the first segment, such as NAME.E01';
  return new AsofError('IMAGE_CORRUPT', `${file.path} ${what}`, hint);
}

/**
 * The segments in the order that they state, where all that are there state different places that are there: names are
 * swapped easily, headers are not. Else each that is not what its name says is left out.
 */
function inOrder(places: readonly Place[], troubles: Trouble[]): Place[] {
  const stated = places.map(({ file }) => (file ? numberIn(file) : undefined));
  const right = (i: number) => stated[i] === i + 1;
  const there = new Set(places.flatMap(({ file }, i) => (file ? [i + 1] : [])));
  const swapped = places.every(({ file }, i) => !file || there.delete(stated[i] ?? 0));
  return places.map((place, i) => {
    if (!place.file || right(i)) return place;
    const { path } = place.file;
    const says =
      stated[i] === undefined ? 'is no segment of an EWF image' : `says that it is segment ${stated[i]}`;
    if (swapped) {
      const what = `it stands where segment ${i + 1} belongs and ${says}: it is used as that`;
      troubles.push({ severity: 'defect', kind: 'image', member: path, what });
      return { ...places[stated.indexOf(i + 1)]! };
    }
    const what = `segment ${i + 1}, ${path}, ${says}`;
    troubles.push({ severity: 'defect', kind: 'image', member: path, what: `it ${says}, and is not used` });
    return { file: undefined, why: what };
  });
}

function numberIn(file: ImageFile): number | undefined {
  try {
    return segmentNumber(file);
  } catch (error) {
    if (error instanceof AsofError && error.code === 'IO') return undefined;
    throw error;
  }
}

/** The volume, whose numbers can be calculated with. Throws IMAGE_CORRUPT or IMAGE_UNSUPPORTED. */
function sound(file: ImageFile, { volume, parts }: Contents): Volume {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  if (!volume) throw corrupt('no sound section says how large the disk is');
  if (volume.media === 'logical evidence') {
    throw new AsofError('IMAGE_UNSUPPORTED', `${file.path} is logical evidence: it holds files, and no disk`);
  }
  const { sectors, sectorsPerChunk, bytesPerSector } = volume;
  if (bytesPerSector < 512 || bytesPerSector > 65536 || bytesPerSector % 512 !== 0)
    throw corrupt(`sectors of ${bytesPerSector} bytes are not a multiple of 512 up to 65536`);
  if (sectorsPerChunk === 0) throw corrupt('a chunk has no sectors');
  if (sectorsPerChunk * bytesPerSector > MOST_CHUNK) {
    const what = `chunks of ${sectorsPerChunk * bytesPerSector} bytes are larger than ${MOST_CHUNK}`;
    throw new AsofError('IMAGE_UNSUPPORTED', `${file.path}: ${what}`);
  }
  if (!Number.isSafeInteger(sectors * bytesPerSector))
    throw corrupt(`${sectors} sectors are beyond 2^53 bytes`);
  if (sectors > 0 && !parts.some(({ kind }) => kind === 'group')) throw corrupt('it has no table of chunks');
  return volume;
}

function note(contents: Contents, file: ImageFile, what: string): void {
  contents.troubles.push({ severity: 'note', kind: 'image', member: file.path, what });
}

/** Tables and their copies, and what of the disk cannot be read; no chunk is unpacked. */
function* examine(
  file: ImageFile,
  troubles: readonly Trouble[],
  spans: readonly Span[],
  layer: EwfLayer,
  loose: boolean,
): Generator<Finding, void, undefined> {
  for (const trouble of troubles) yield { ...trouble, count: 1 };
  for (const { group } of spans) if (group) yield* tables(group, loose);
  yield* lostRanges(layer, file);
}

/** A table that is damaged while another of the group is not. */
function* tables(group: Group, loose: boolean): Generator<Finding, void, undefined> {
  const answers = group.tables.map(at => readTable(group, at, loose));
  if (answers.every(answer => typeof answer === 'string')) return;
  for (const answer of answers) {
    if (typeof answer !== 'string') continue;
    const what = `${answer}; the other one is used`;
    yield { severity: 'defect', kind: 'table', member: group.file.path, what, count: 1 };
  }
}
