/** A snapshot that is a file or a block device of its own, as a disk. */
import { Disk } from '../block/disk.js';
import { ImageFile } from '../block/file.js';
import { rawLayer } from '../block/raw-file.js';
import { stack } from '../block/stack.js';
import { Engine } from '../native.js';
import type { VolumeDefinition } from './definition.js';
import type { SnapshotDisk } from './provider.js';

export function openFileDisk(
  path: string,
  { sectorSize }: Pick<VolumeDefinition, 'sectorSize'>,
): SnapshotDisk {
  const file = ImageFile.open(path);
  // An engine of its own: it keeps a file open for as long as it lives. Plain extents need no cache and no threads.
  const engine = new Engine({ cacheBytes: 0, mapBytes: 2 ** 20, threads: 1 });
  const disk = new Disk(engine, stack([rawLayer(file)], sectorSize));
  return {
    size: disk.size,
    sectorSize,
    native: disk.native,
    close() {
      disk.close();
      engine.close();
      file.close();
    },
  };
}
