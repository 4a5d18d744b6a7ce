/** `asof backup`: one more point in a history. */
import { type Command, Option } from 'commander';
import { AsofError, EXIT } from '../errors.js';
import type { BackupOptions, BackupProgress, BackupResult, ImageKind } from '../histories.js';
import { counted, printable } from './columns.js';
import { parseCompression } from './compression.js';
import { humanSeconds } from './duration.js';
import { formatHelp, named } from './options.js';
import { write, writeJson } from './output.js';
import { Phases } from './phases.js';
import { examples } from './program.js';
import { Progress } from './progress.js';
import { humanSize, parseSize } from './size.js';
import { type StateFlags, withState } from './state.js';

interface Flags extends StateFlags {
  readonly to: string;
  readonly kind?: ImageKind;
  readonly base?: string;
  readonly method: BackupOptions['method'];
  readonly compress: number;
  readonly ignoreReadErrors?: boolean;
  readonly rate?: number;
  readonly label?: string;
  readonly format?: string;
  readonly allSectors?: boolean;
  readonly excludeSwap?: boolean;
}

export function define(command: Command): void {
  withState(command)
    .argument(
      '<SOURCE...>',
      'a disk image, a raw file, a block device (a path), or names of volumes and groups (@NAME)',
      (text: string, before: readonly string[] = []) => [...before, named('SOURCE')(text)],
    )
    .requiredOption('--to <DIR>', 'the folder of the history; made where it is not there', named('--to'))
    .addOption(
      new Option(
        '--kind <KIND>',
        'incremental unless given, or full where there is nothing to stand on',
      ).choices(['full', 'incremental', 'differential']),
    )
    .option('--base <ID>', 'the point to stand on (the previous, or the last full one, unless given)')
    .addOption(
      new Option(
        '--method <HOW>',
        'how changes are found: as tracked where that is known, or by comparing all',
      )
        .choices(['auto', 'tracked', 'compared'])
        .default('auto'),
    )
    .option('--compress <HOW>', 'zstd, zstd:LEVEL (1 to 19) or none', parseCompression, 3)
    .option('--ignore-read-errors', 'go on where the source cannot be read; what is left out is listed')
    .option('--rate <SIZE>', 'bytes that are read in a second at most', text => parseSize(text, '--rate'))
    .option('--all-sectors', 'keep what file systems say they do not use, such as deleted files')
    .option('--exclude-swap', 'leave out swap, pagefile.sys, hiberfil.sys and swapfile.sys')
    .option('--label <TEXT>', 'a note that stands with the point')
    .option('--format <NAME>', formatHelp('an image'))
    .addHelpText(
      'after',
      `
A SOURCE with a slash in it, or that is a file here, is a path; else it is a volume of the daemon. Of all volumes that are
named one moment is taken, read and deleted again. Of a volume that is written to meanwhile, what had to be preserved is read
first, and what is stored is preserved no more. Each point is one qcow2 image that QEMU reads too, with a manifest and a hash tree beside it. It is
there when it has been read back and has the digests of what was read; a run that fails leaves nothing behind.
What a file system (ext, XFS, btrfs, NTFS, FAT, exFAT; the whole of SOURCE, or a partition) says it does not use is left out and
reads as zeros: by its own map, through partclone, where it is at rest. Where no map can be had or believed, all sectors are
taken, and the record says why. --exclude-swap leaves out the content of swap: partitions and files of Linux, and what Windows has
in its root folder. A system that is hibernated there does not wake up again from such a point: it starts anew.
With --json, lines {"progress": …} come on standard error while it runs.
${examples(['asof backup data --to /backup/data', 'asof backup /dev/sdb1 --to /backup/sdb1 --kind full', 'asof backup vm.img --to /backup/vm --ignore-read-errors'])}`,
    )
    .action(async (sources: string[], flags: Flags) => {
      const stop = new AbortController();
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => stop.abort());
      const shown = new Phases(flags.json ?? false, barOf);
      const began = new Date();
      const options: BackupOptions = {
        kind: flags.kind,
        base: flags.base,
        method: flags.method,
        level: flags.compress,
        ignoreReadErrors: flags.ignoreReadErrors ?? false,
        rate: flags.rate ?? 0,
        label: flags.label ?? '',
        signal: stop.signal,
        urgent: undefined,
        stored: undefined,
        progress: state => shown.at(state),
      };
      const { backup, isVolume, backupVolumes, noteFailure } = await import('./backup-volume.js');
      try {
        const { format, allSectors, excludeSwap } = flags;
        const [source, second] = sources as [string, string?];
        const volumes = sources.filter(isVolume);
        if (second !== undefined && (volumes.length < sources.length || flags.base !== undefined)) {
          const what =
            flags.base === undefined ? 'several SOURCEs are names of volumes' : '--base is of one SOURCE';
          throw new AsofError('USAGE', what, 'asof backup --help');
        }
        const { results, marks, warnings } =
          volumes.length > 0
            ? await backupVolumes(sources, flags, options)
            : {
                results: [await backup(source, flags.to, options, { format, allSectors, excludeSwap })],
                marks: [],
                warnings: [],
              };
        shown.end();
        const manifests = results.map(({ point }) => point.manifest);
        // One name that is no group's is one point.
        const alone = second === undefined && !source.startsWith('@');
        if (flags.json) await writeJson(alone ? manifests[0] : manifests);
        else await write(results.map(forPeople).join('\n'));
        for (const text of [...warnings, ...marks]) {
          process.stderr.write(
            flags.json ? `${JSON.stringify({ warning: text })}\n` : `asof: ${printable(text)}\n`,
          );
        }
        // The points are there, and yet the job is not as it should be.
        if (marks.length > 0) process.exitCode = EXIT.defects;
      } catch (error) {
        noteFailure(flags.to, sources.join(', '), began, error);
        throw error;
      } finally {
        shown.end();
      }
    });
}

function forPeople({ point, cleared }: BackupResult): string {
  const { manifest, stem } = point;
  const { base, image, bad } = manifest;
  const seconds = humanSeconds(manifest.milliseconds / 1000);
  const lines = [
    `${stem}: ${manifest.kind}${base ? ` on ${base.choice === 'previous' ? 'the previous' : base.id}` : ''}, because ${manifest.kindWhy}`,
    `changes ${manifest.method}: ${manifest.methodWhy}`,
    `${humanSize(manifest.read)} read, ${humanSize(image.bytes)} stored, read back and found right; ${seconds}`,
    `root ${manifest.root}`,
  ];
  if (manifest.allocationWhy !== undefined) lines.push(unusedText(manifest));
  for (const { name, kind, partition, runs } of manifest.excluded ?? []) {
    const bytes = runs.reduce((sum, [, length]) => sum + length, 0);
    const where = partition === undefined ? '' : ` of partition ${partition}`;
    lines.push(
      `left out: ${kind.replace('-', ' ')} ${name || 'without a label'}${where}, ${humanSize(bytes)}`,
    );
  }
  for (const why of manifest.excludedNot ?? []) lines.push(`not left out: ${why}`);
  if (manifest.sha256) lines.push(`sha256 of the disk ${manifest.sha256}`);
  if (bad.runs.length > 0) {
    const bytes = bad.runs.reduce((sum, [, length]) => sum + length, 0);
    lines.push(
      `${counted(bad.runs.length, 'run')} of sectors could not be read (${humanSize(bytes)}): ${bad.file}`,
    );
  }
  if (cleared.length > 0) lines.push(`taken away, left by a run that was killed: ${cleared.join(', ')}`);
  return lines.map(text => `${printable(text)}\n`).join('');
}

function unusedText({ unused, allocationWhy }: BackupResult['point']['manifest']): string {
  return unused
    ? `unused space left out, ${humanSize(unused.bytes)}: ${allocationWhy}`
    : `unused space kept: ${allocationWhy}`;
}

/** The total is that of what is read; what is read back is less, by the zeros in it. */
function barOf({ phase, total }: BackupProgress): Progress {
  return phase === 'copy' ? new Progress('reading', total) : new Progress('reading back', 0);
}
