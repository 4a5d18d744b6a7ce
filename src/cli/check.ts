/** `asof check`: the doctor for the whole chain, and with `--deep` every byte of every point. */
import type { Command } from 'commander';
import type { BlockSource } from '../block/source.js';
import { EXIT } from '../errors.js';
import { type Finding, OpenedImage, type Point } from '../service.js';
import { Digesting } from '../stored-digest.js';
import { counted, printable } from './columns.js';
import { type ImageFlags, imageOptions, withCache, withImage, withJson } from './options.js';
import { JsonArray, write } from './output.js';
import { examples } from './program.js';
import { Progress } from './progress.js';
import { humanSize } from './size.js';

interface Flags extends ImageFlags {
  readonly deep?: boolean;
}

/** What is reported: of a member's metadata, or (`--deep`) of a point's bytes. */
type Report =
  | Finding
  | {
      readonly severity: 'defect' | 'note';
      readonly point: string;
      readonly what: string;
      readonly count: 1;
      readonly range?: Finding['range'];
    };

/** Bytes of one read. */
const PIECE = 4 * 2 ** 20;

export function define(command: Command): void {
  withJson(withCache(withImage(command)))
    .option('--deep', 'also read every byte of every point, and compare the digests that the image carries')
    .addHelpText(
      'after',
      `
Every member of the chain: its tables, links, overlaps, truncation. A finding is a defect (bytes cannot be vouched
for, or a rule of the format is broken), a leak (space counted as used that is not; no byte is in danger) or a note.
Exit status 3 where there is a defect; leaks and notes alone are 0.
${examples(['asof check disk.qcow2', 'asof check disk.qcow2 --deep --json'])}`,
    )
    .action(async (file: string, flags: Flags) => {
      const image = new OpenedImage(file, imageOptions(flags));
      try {
        const counts = { defect: 0, leak: 0, note: 0 };
        const array = flags.json ? new JsonArray() : undefined;
        const tell = async (report: Report) => {
          counts[report.severity]++;
          await (array ? array.add(report) : write(forPeople(report)));
        };
        for (const finding of image.check()) await tell(finding);
        if (flags.deep) await readAll(image, tell);
        await (array ? array.end() : write(summary(image, counts)));
        if (counts.defect > 0) process.exitCode = EXIT.defects;
      } finally {
        image.close();
      }
    });
}

/** Damage reads as zeros here, so that a read goes on behind it; each is in the list of the disk. */
async function readAll(image: OpenedImage, tell: (report: Report) => Promise<void>) {
  const total = image.points.reduce((sum, point) => sum + point.size, 0);
  const progress = new Progress('reading', total);
  let before = 0;
  for (const point of image.points) {
    for (const report of await readPoint(image, point, at => progress.at(before + at))) {
      progress.end();
      await tell(report);
    }
    before += point.size;
  }
  progress.end();
}

async function readPoint(image: OpenedImage, point: Point, at: (done: number) => void): Promise<Report[]> {
  const disk = image.openDisk(point, 'zero');
  try {
    const hashes = point.digests.map(stored => new Digesting(stored));
    const buffer = Buffer.allocUnsafe(PIECE);
    let offset = 0;
    for (const run of toRead(disk.source, hashes.length > 0)) {
      // Zero runs name no byte of a file: a hole of terabytes costs nothing, unless a digest covers it.
      const end = offset + run.length;
      for (; !run.hole && offset < end; offset += PIECE) {
        const piece = buffer.subarray(0, Math.min(PIECE, end - offset));
        await disk.native.read(offset, piece);
        for (const hash of hashes) hash.update(offset, piece);
        at(offset);
      }
      offset = end;
    }
    const defects: Report[] = disk.defects().map(({ offset, length, why }) => ({
      severity: 'defect',
      point: point.id,
      what: why,
      count: 1,
      range: { offset, length },
    }));
    const verdicts = hashes.map((hash): Report => {
      const { algorithm, value, of } = hash.stored;
      const found = hash.digest();
      const name = algorithm.toUpperCase();
      const what = of === undefined ? 'the disk' : `its part ${JSON.stringify(of)}`;
      const same = found === value;
      return {
        severity: same ? 'note' : 'defect',
        point: point.id,
        what: same
          ? `the ${name} that the image carries is that of ${what}: ${value}`
          : `the ${name} of ${what} is ${found}, the image carries ${value}`,
        count: 1,
      };
    });
    return [...defects, ...verdicts];
  } finally {
    disk.close();
  }
}

/** What is to be read: all in one where a digest covers it, else run by run. */
function* toRead(source: BlockSource, whole: boolean): Generator<{ length: number; hole: boolean }> {
  if (whole) yield { length: source.size, hole: false };
  else for (const { kind, length } of source.extents(0, source.size)) yield { length, hole: kind === 'zero' };
}

function forPeople(report: Report): string {
  const { severity, what, count } = report;
  const range = 'range' in report ? report.range : undefined;
  const of = 'point' in report ? `point ${report.point}` : report.member;
  const snapshot =
    'snapshot' in report && report.snapshot !== undefined ? `, snapshot ${report.snapshot}` : '';
  const where = range ? ` [bytes ${range.offset} to ${range.offset + range.length - 1}]` : '';
  const times = count > 1 ? ` (${count} times)` : '';
  return `${severity.padEnd(6)}  ${printable(`${of}${snapshot}: ${what}${times}${where}`)}\n`;
}

function summary(image: OpenedImage, counts: Readonly<Record<Finding['severity'], number>>): string {
  const { members } = image.info();
  const bytes = members.reduce((sum, member) => sum + member.fileSize, 0);
  const found = [
    counted(counts.defect, 'defect'),
    counted(counts.leak, 'leak'),
    counted(counts.note, 'note'),
  ].join(', ');
  return `${counted(members.length, 'member')}, ${humanSize(bytes)}: ${counts.defect > 0 ? '' : 'sound; '}${found}\n`;
}
