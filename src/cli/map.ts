/** `asof map`: where the bytes of a point lie. Written run by run: a map may be longer than memory. */
import type { Command } from 'commander';
import { type Extent, joined } from '../block/extent.js';
import { EXIT } from '../errors.js';
import { OpenedImage } from '../service.js';
import { line, printable } from './columns.js';
import { type ImageFlags, imageOptions, withImage, withJson, withPoint } from './options.js';
import { JsonArray, write } from './output.js';
import { examples } from './program.js';
import { Progress } from './progress.js';
import { parseSize } from './size.js';

interface Flags extends ImageFlags {
  readonly point?: string;
  readonly offset: number;
  readonly length?: number;
}

/** Characters of output that are written at once. */
const BATCH = 1 << 16;

export function define(command: Command): void {
  withJson(withPoint(withImage(command)))
    .option('--offset <N>', 'where to begin', text => parseSize(text, '--offset'), 0)
    .option('--length <N>', 'how many bytes (to the end unless given)', text => parseSize(text, '--length'))
    .addHelpText(
      'after',
      `
A line a run: where it starts, how long it is, what it is (data, zero, packed, bad), and for data and packed runs
where in which member it lies. Exit status 3 where any run is bad.
${examples(['asof map disk.qcow2', 'asof map disk.qcow2 --point @2026-11-21T10:15:00Z --json'])}`,
    )
    .action(async (file: string, flags: Flags) => {
      const image = new OpenedImage(file, imageOptions(flags));
      try {
        const source = image.point(flags.point).open();
        const length = flags.length ?? Math.max(0, source.size - flags.offset);
        const runs = joined(source.extents(flags.offset, length));
        const progress = new Progress('mapping', length);
        const bad = await (flags.json ? asJson : asLines)(runs, flags.offset, source.size, progress);
        if (bad) process.exitCode = EXIT.defects;
      } finally {
        image.close();
      }
    });
}

async function asJson(runs: Iterable<Extent>, start: number, _size: number, progress: Progress) {
  const array = new JsonArray();
  let bad = false;
  let at = start;
  for (const run of runs) {
    bad ||= run.kind === 'bad';
    await array.add({ start: at, length: run.length, kind: run.kind, ...place(run) });
    at += run.length;
    progress.at(at - start);
  }
  await array.end();
  progress.end();
  return bad;
}

async function asLines(runs: Iterable<Extent>, start: number, size: number, progress: Progress) {
  const width = Math.max(6, String(size).length);
  const align = ['>', '>', '<', '>', '<'] as const;
  const widths = [width, width, 6, width, 0];
  let text = line(['START', 'LENGTH', 'KIND', 'AT', 'MEMBER'], align, widths);
  let bad = false;
  let at = start;
  for (const run of runs) {
    bad ||= run.kind === 'bad';
    const { member, offset, why } = place(run);
    const where = [member ?? '', why ?? ''].filter(part => part !== '').join(': ');
    text += line(
      [String(at), String(run.length), run.kind, String(offset ?? '-'), printable(where || '-')],
      align,
      widths,
    );
    at += run.length;
    if (text.length >= BATCH) {
      await write(text);
      text = '';
      progress.at(at - start);
    }
  }
  progress.end();
  await write(text);
  return bad;
}

interface Place {
  readonly member?: string;
  readonly offset?: number;
  readonly packedLength?: number;
  readonly unpackedLength?: number;
  readonly skip?: number;
  readonly codec?: string;
  readonly why?: string;
}

/** Where a run lies. `member` is absent where no member says anything of it. */
function place(run: Extent): Place {
  switch (run.kind) {
    case 'data':
      return { member: run.file.path, offset: run.offset };
    case 'packed': {
      const { packedLength, unpackedLength, skip, codec } = run;
      return { member: run.file.path, offset: run.offset, packedLength, unpackedLength, skip, codec };
    }
    case 'zero':
      return run.by ? { member: run.by.path } : {};
    case 'bad':
      return run.by ? { member: run.by.path, why: run.why } : { why: run.why };
  }
}
