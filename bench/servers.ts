/**
 * Who is measured: asof, and each peer that can show the same image as a file.
 */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Image } from './content.js';
import { isMounted, run, serve, unmountAtEnd, untilMounted } from './process.js';

export const ASOF = fileURLToPath(new URL('../../bin/asof', import.meta.url));

/** An image, shown as the file `disk`. */
export interface Served {
  readonly disk: string;
  stop(): Promise<void>;
}

export interface Server {
  readonly name: string;
  /** The program that must be installed; '' where none must. */
  readonly program: string;
  /** Whether it reads such an image, and right. */
  can(image: Image): boolean;
  /** Shows `image` below `folder`, which is the caller's. */
  start(image: Image, folder: string): Promise<Served>;
}

export const SERVERS: readonly Server[] = [
  {
    name: 'asof',
    program: '',
    can: () => true,
    async start({ file }, folder) {
      const point = mountPoint(folder);
      await run(process.execPath, [ASOF, 'mount', file, point]);
      return mounted(point, join(point, 'disk'), () => run(process.execPath, [ASOF, 'umount', point]));
    },
  },
  {
    name: 'qemu-storage-daemon',
    program: 'qemu-storage-daemon',
    can: () => true,
    async start({ row, file }, folder) {
      const point = join(folder, 'export');
      writeFileSync(point, '');
      const driver = row === 'raw' ? 'raw' : 'qcow2';
      const daemon = serve('qemu-storage-daemon', [
        ...['--blockdev', `driver=file,node-name=file,filename=${file},read-only=on`],
        ...['--blockdev', `driver=${driver},node-name=disk,file=file,read-only=on`],
        ...['--export', `type=fuse,id=export,node-name=disk,mountpoint=${point},writable=off`],
      ]);
      await untilMounted(point, true);
      return mounted(point, point, daemon.stop);
    },
  },
  {
    name: 'xmount',
    program: 'xmount',
    can: ({ row }) => row === 'raw',
    async start({ file }, folder) {
      const point = mountPoint(folder);
      await run('xmount', ['--in', 'raw', file, '--out', 'raw', point]);
      const name = readdirSync(point).find(one => one.endsWith('.dd'));
      return mounted(point, join(point, name ?? ''), () => run('umount', [point]));
    },
  },
  {
    name: 'qcowmount',
    program: 'qcowmount',
    // It opens no backing file, and does not know zstd.
    can: ({ row }) => row === 'qcow2' || row === 'zlib',
    async start({ file }, folder) {
      const point = mountPoint(folder);
      await run('qcowmount', [file, point]);
      await untilMounted(point, true);
      return mounted(point, join(point, 'qcow1'), () => run('umount', [point]));
    },
  },
  {
    name: 'plain file',
    program: '',
    can: ({ row }) => row === 'raw',
    start: async ({ file }) => ({ disk: file, stop: async () => {} }),
  },
];

export function mountPoint(folder: string): string {
  const path = join(folder, 'mnt');
  rmSync(path, { recursive: true, force: true });
  mkdirSync(path);
  return path;
}

export function mounted(point: string, disk: string, unmount: () => Promise<unknown>): Served {
  const undo = unmountAtEnd(point);
  return {
    disk,
    async stop() {
      await unmount();
      if (isMounted(point)) await untilMounted(point, false);
      undo();
    },
  };
}
