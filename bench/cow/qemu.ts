/**
 * QEMU's backup by fleecing: every first write to the source copies the old cluster to a qcow2 image, and what the disk
 * was can be read through `snapshot-access` meanwhile (docs/interop of QEMU: "Image fleecing").
 *
 *   source ← copy-before-write → fleecing image
 *                ├ exported for writing        (FUSE or NBD)
 *                └ snapshot-access, exported   (FUSE)
 *
 * `writethrough`: the fleecing image lies behind qemu-nbd with --cache=writethrough, so that each copy and its entry are on
 * stable storage before the source is overwritten. qemu-storage-daemon has no such setting for a node that a filter writes.
 */
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isMounted, run, serve, unmountAtEnd, untilMounted } from '../process.js';
import type { Target } from './load.js';

export interface Fleece {
  /** The source, for writing. */
  readonly live: Target;
  /** What it was. */
  readonly snapshot: string;
  stop(): Promise<void>;
}

/** `source` is a raw image in `folder`, of `size` bytes. */
export async function fleece(
  folder: string,
  source: string,
  size: number,
  road: 'fuse' | 'nbd',
  writethrough = false,
): Promise<Fleece> {
  const image = join(folder, 'fleece.qcow2');
  const socket = join(folder, 'qemu.sock');
  const inner = join(folder, 'fleece.sock');
  const file = join(folder, 'qemu-live');
  const snapshot = join(folder, 'qemu-snapshot');
  for (const path of [image, socket, inner]) rmSync(path, { force: true });
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(size)]);
  for (const point of [file, snapshot]) writeFileSync(point, '');
  const below = writethrough
    ? serve('qemu-nbd', ['-f', 'qcow2', '--cache=writethrough', '--persistent', '-k', inner, image])
    : undefined;
  if (below) await until(() => existsSync(inner), 'qemu-nbd');
  const target = below
    ? ['--blockdev', `driver=nbd,node-name=fleece,server.type=unix,server.path=${inner}`]
    : [
        ...['--blockdev', `driver=file,node-name=fleece-file,filename=${image}`],
        ...['--blockdev', 'driver=qcow2,node-name=fleece,file=fleece-file'],
      ];
  const undo = [unmountAtEnd(file), unmountAtEnd(snapshot)];
  const daemon = serve(
    'qemu-storage-daemon',
    [
      ...['--blockdev', `driver=file,node-name=source-file,filename=${source}`],
      ...['--blockdev', 'driver=raw,node-name=source,file=source-file'],
      ...target,
      ...['--blockdev', 'driver=copy-before-write,node-name=filter,file=source,target=fleece'],
      ...['--blockdev', 'driver=snapshot-access,node-name=access,file=filter'],
      ...(road === 'nbd'
        ? [
            ...['--nbd-server', `addr.type=unix,addr.path=${socket}`],
            ...['--export', 'type=nbd,id=live,node-name=filter,name=disk,writable=on'],
          ]
        : ['--export', `type=fuse,id=live,node-name=filter,mountpoint=${file},writable=on`]),
      ...['--export', `type=fuse,id=snapshot,node-name=access,mountpoint=${snapshot},writable=off`],
    ],
    // Over NBD it does not see the image's cluster size, and takes that of qcow2, 64 KiB, which is right.
    writethrough,
  );
  if (road === 'fuse') await untilMounted(file, true);
  await untilMounted(snapshot, true);
  return {
    live: road === 'fuse' ? { file } : { uri: `nbd+unix:///disk?socket=${socket}` },
    snapshot,
    async stop() {
      await daemon.stop();
      await below?.stop();
      for (const point of [file, snapshot]) if (isMounted(point)) await untilMounted(point, false);
      for (const one of undo) one();
      rmSync(image, { force: true });
    },
  };
}

async function until(done: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 1000; i++) {
    if (done()) return;
    await new Promise(resolve => setTimeout(resolve, 10));
  }
  throw new Error(`${what} is not ready after ten seconds`);
}
