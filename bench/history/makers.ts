/**
 * Who makes a backup of a volume: asof and others, each told to compress with zstd at the level that it has by itself, or at
 * asof's own (3) where it has none. A maker keeps what it needs between a first backup and the next in its own folder.
 */
import { type ChildProcess, spawnSync } from 'node:child_process';
import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { ASOF } from '../servers.js';
import { type Cost, timed } from './timed.js';

export interface Maker {
  readonly name: string;
  /** Programs without which it cannot be measured. */
  readonly needs: readonly string[];
  /** Backs up the file `volume` into `folder`, which is the maker's own and new. */
  full(volume: string, folder: string): Promise<Cost>;
  /** Once more, after the volume was changed; where it knows how. */
  next?(volume: string, folder: string): Promise<Cost>;
}

const backup = (volume: string, folder: string, ...options: string[]) =>
  timed([process.execPath, ASOF, 'backup', volume, '--to', join(folder, 'history'), ...options]);

const restic = (folder: string, ...argv: string[]) =>
  timed(['restic', '--quiet', '--no-cache', '--repo', join(folder, 'repository'), ...argv], {
    env: { RESTIC_PASSWORD: 'bench' },
  });

/** A new point each, whatever the second. */
let serial = 0;
const borg = (folder: string, ...argv: string[]) =>
  timed(['borg', ...argv], {
    env: {
      BORG_REPO: join(folder, 'repository'),
      BORG_BASE_DIR: join(folder, 'base'),
      BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK: 'yes',
    },
  });
const borgCreate = (volume: string, folder: string) =>
  borg(folder, 'create', '--compression', 'zstd,3', `::point-${serial++}`, volume);

export const MAKERS: readonly Maker[] = [
  {
    name: 'asof --all-sectors',
    needs: [],
    full: (volume, folder) => backup(volume, folder, '--all-sectors'),
    next: (volume, folder) => backup(volume, folder, '--all-sectors', '--method', 'compared'),
  },
  {
    name: 'asof',
    needs: ['partclone.extfs'],
    full: (volume, folder) => backup(volume, folder),
  },
  {
    name: 'asof --all-sectors --compress zstd:1',
    needs: [],
    full: (volume, folder) => backup(volume, folder, '--all-sectors', '--compress', 'zstd:1'),
  },
  {
    name: 'qemu-img convert -c',
    needs: ['qemu-img'],
    full: (volume, folder) =>
      timed([
        ...[
          'qemu-img',
          'convert',
          '-c',
          '-m',
          '16',
          '-f',
          'raw',
          '-O',
          'qcow2',
          '-o',
          'compression_type=zstd',
        ],
        ...[volume, join(folder, 'image.qcow2')],
      ]),
  },
  {
    name: 'QEMU’s backup job',
    needs: ['qemu-storage-daemon', 'qemu-img'],
    full: blockdevBackup,
  },
  {
    name: 'partclone, zstd',
    needs: ['partclone.extfs', 'zstd'],
    full: (volume, folder) =>
      timed([
        ...['sh', '-c', 'partclone.extfs -c -q -s "$1" -o - 2>"$3" | zstd -q -T0 -3 -o "$2"', 'sh'],
        ...[volume, join(folder, 'image.zst'), join(folder, 'partclone.log')],
      ]),
  },
  {
    name: 'restic',
    needs: ['restic'],
    async full(volume, folder) {
      await restic(folder, 'init');
      return restic(folder, 'backup', volume);
    },
    next: (volume, folder) => restic(folder, 'backup', '--force', volume),
  },
  {
    name: 'borg',
    needs: ['borg'],
    async full(volume, folder) {
      mkdirSync(join(folder, 'base'));
      await borg(folder, 'init', '--encryption', 'none');
      return borgCreate(volume, folder);
    },
    next: borgCreate,
  },
];

/** Programs of `maker` that are not here. */
export function missingOf({ needs }: Maker): string[] {
  return needs.filter(program => spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0);
}

/** A backup job of qemu-storage-daemon into a compressed qcow2 image, asked over its monitor. */
async function blockdevBackup(volume: string, folder: string): Promise<Cost> {
  const image = join(folder, 'image.qcow2');
  const { size } = statSync(volume);
  spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'compression_type=zstd', image, String(size)]);
  const daemon = [
    ...['qemu-storage-daemon', '--chardev', 'stdio,id=monitor', '--monitor', 'chardev=monitor'],
    ...['--blockdev', `driver=file,node-name=file,filename=${volume},read-only=on`],
    ...['--blockdev', 'driver=raw,node-name=source,file=file,read-only=on'],
    ...['--blockdev', `driver=file,node-name=image,filename=${image}`],
    ...['--blockdev', 'driver=qcow2,node-name=target,file=image'],
  ];
  return timed(daemon, { talk: child => backupJob(child) });
}

async function backupJob(child: ChildProcess): Promise<void> {
  const send = (execute: string, values: object = {}) =>
    child.stdin!.write(`${JSON.stringify({ execute, arguments: values })}\n`);
  await new Promise<void>((done, failed) => {
    let text = '';
    child.on('exit', () => failed(new Error(`qemu-storage-daemon ended: ${text}`)));
    child.stdout!.setEncoding('utf8').on('data', (piece: string) => {
      text += piece;
      const lines = text.split('\n');
      text = lines.pop() ?? '';
      for (const line of lines) {
        const message = JSON.parse(line) as {
          QMP?: object;
          event?: string;
          error?: object;
          data?: { error?: string };
        };
        if (message.error) failed(new Error(line));
        if (message.QMP) {
          send('qmp_capabilities');
          const job = { 'job-id': 'job', device: 'source', target: 'target', sync: 'full', compress: true };
          send('blockdev-backup', { ...job, 'x-perf': { 'max-workers': 64, 'use-copy-range': false } });
        }
        if (message.event !== 'BLOCK_JOB_COMPLETED') continue;
        if (message.data?.error) failed(new Error(line));
        send('quit');
        done();
      }
    });
  });
}
