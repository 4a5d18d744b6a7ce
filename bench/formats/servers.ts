/**
 * Who is measured on images of other systems: asof, and what a user would mount them with.
 */
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run, serve, untilMounted } from '../process.js';
import { ASOF, mounted, mountPoint, type Served } from '../servers.js';
import type { Image, Row } from './images.js';

export interface Server {
  readonly name: string;
  /** The program that must be installed; '' where none must. */
  readonly program: string;
  /** Rows that it reads, and right. */
  readonly rows: readonly Row[];
  /** Shows `image` below `folder`, which is the caller's. */
  start(image: Image, folder: string): Promise<Served>;
}

const ALL: readonly Row[] = ['e01', 'e01-none', 'vhd', 'vhdx', 'vmdk', 'vmdk-stream', 'vdi', 'shadow copy'];
const QEMU: Partial<Record<Row, string>> = {
  vhd: 'vpc',
  vhdx: 'vhdx',
  vmdk: 'vmdk',
  'vmdk-stream': 'vmdk',
  vdi: 'vdi',
};

/** One of libyal's programs, which show a disk as a file of that name. */
function libyal(program: string, rows: readonly Row[], disk: string): Server {
  return {
    name: program,
    program,
    rows,
    async start({ file }, folder) {
      const point = mountPoint(folder);
      await run(program, [file, point]);
      await untilMounted(point, true);
      return mounted(point, join(point, disk), () => run('umount', [point]));
    },
  };
}

export const SERVERS: readonly Server[] = [
  {
    name: 'asof',
    program: '',
    rows: ALL,
    async start({ row, file }, folder) {
      const point = mountPoint(folder);
      await run(process.execPath, [ASOF, 'mount', file, point]);
      const disk = row === 'shadow copy' ? join(point, 'store1', 'disk') : join(point, 'disk');
      return mounted(point, disk, () => run(process.execPath, [ASOF, 'umount', point]));
    },
  },
  {
    name: 'qemu-storage-daemon',
    program: 'qemu-storage-daemon',
    rows: Object.keys(QEMU) as Row[],
    async start({ row, file }, folder) {
      const point = join(folder, 'export');
      writeFileSync(point, '');
      const daemon = serve('qemu-storage-daemon', [
        ...['--blockdev', `driver=file,node-name=file,filename=${file},read-only=on`],
        ...['--blockdev', `driver=${QEMU[row]},node-name=disk,file=file,read-only=on`],
        ...['--export', `type=fuse,id=export,node-name=disk,mountpoint=${point},writable=off`],
      ]);
      await untilMounted(point, true);
      return mounted(point, point, daemon.stop);
    },
  },
  libyal('ewfmount', ['e01', 'e01-none'], 'ewf1'),
  {
    name: 'xmount',
    program: 'xmount',
    rows: ['e01', 'e01-none'],
    async start({ file }, folder) {
      const point = mountPoint(folder);
      await run('xmount', ['--in', 'aewf', file, '--out', 'raw', point]);
      const name = readdirSync(point).find(one => one.endsWith('.dd'));
      return mounted(point, join(point, name ?? ''), () => run('umount', [point]));
    },
  },
  libyal('vhdimount', ['vhd'], 'vhdi1'),
  libyal('vmdkmount', ['vmdk', 'vmdk-stream'], 'vmdk1'),
  libyal('vshadowmount', ['shadow copy'], 'vss1'),
];
