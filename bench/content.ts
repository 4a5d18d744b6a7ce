/**
 * The images that are measured: the same content in every row, about half of which compresses away.
 */
import { createCipheriv } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream, existsSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { isMounted, run, serve, untilMounted } from './process.js';

const CLUSTER = 65_536;
const MIB = 2 ** 20;

export const ROWS = ['raw', 'qcow2', 'zlib', 'zstd', 'chain-10', 'chain-100'] as const;
export type Row = (typeof ROWS)[number];

export interface Image {
  readonly row: Row;
  readonly file: string;
  /** Images from the newest to the full one. */
  readonly depth: number;
}

/** Makes the images of `rows` in `folder`, each of `size` bytes. */
export async function makeImages(
  folder: string,
  size: number,
  rows: readonly Row[],
  say: (text: string) => void,
): Promise<Image[]> {
  const raw = join(folder, 'content.raw');
  say(`content: ${size / MIB} MiB`);
  await writeContent(raw, size);
  const images: Image[] = [];
  const convert = async (name: string, options: readonly string[]) => {
    const file = join(folder, name);
    if (!existsSync(file)) {
      say(name);
      await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-m', '4', ...options, raw, file]);
    }
    return file;
  };
  for (const row of rows) {
    const depth = /^chain-(\d+)$/.exec(row)?.[1];
    if (row === 'raw') images.push({ row, file: raw, depth: 1 });
    else if (row === 'zlib') images.push({ row, file: await convert('zlib.qcow2', ['-c']), depth: 1 });
    else if (row === 'zstd') {
      const options = ['-c', '-o', 'compression_type=zstd'];
      images.push({ row, file: await convert('zstd.qcow2', options), depth: 1 });
    } else {
      let file = await convert('plain.qcow2', []);
      if (depth) {
        say(row);
        file = await makeChain(folder, Number(depth), size);
      }
      images.push({ row, file, depth: Number(depth ?? 1) });
    }
  }
  return images;
}

/** In each 4 KiB half a block of noise and half a block of text; the same bytes for the same size. */
async function writeContent(path: string, size: number): Promise<void> {
  const noise = createCipheriv('aes-128-ctr', Buffer.alloc(16, 1), Buffer.alloc(16));
  const file = createWriteStream(path);
  const zeros = Buffer.alloc(MIB / 2);
  for (let offset = 0; offset < size; offset += MIB) {
    const random = noise.update(zeros);
    const block = Buffer.alloc(MIB, `block ${offset}: the quick brown fox jumps over the lazy dog\n`);
    for (let i = 0; i < MIB / 4096; i++) random.copy(block, i * 4096, i * 2048, (i + 1) * 2048);
    if (!file.write(block.subarray(0, Math.min(MIB, size - offset)))) await once(file, 'drain');
  }
  file.end();
  await once(file, 'finish');
}

/**
 * Overlays on plain.qcow2 which together hold every cluster but the first image's share, in runs of one to sixteen
 * clusters: the content of the disk is that of content.raw, and it is spread over the chain.
 * The bytes are written through qemu-storage-daemon, so that QEMU lays the images out.
 */
async function makeChain(folder: string, depth: number, size: number): Promise<string> {
  const runs = Array.from({ length: depth }, () => [] as { offset: number; length: number }[]);
  let state = depth;
  for (let offset = 0; offset < size; ) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const length = Math.min((1 + ((state >>> 8) & 15)) * CLUSTER, size - offset);
    runs[(state >>> 12) % depth]!.push({ offset, length });
    offset += length;
  }
  const content = await open(join(folder, 'content.raw'));
  let below = 'plain.qcow2';
  try {
    for (let level = 1; level < depth; level++) {
      const name = `chain-${depth}-${level}.qcow2`;
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', below, '-F', 'qcow2', name], folder);
      await writeThrough(join(folder, name), runs[level]!, content);
      below = name;
    }
  } finally {
    await content.close();
  }
  return join(folder, below);
}

async function writeThrough(
  image: string,
  runs: readonly { offset: number; length: number }[],
  content: Awaited<ReturnType<typeof open>>,
): Promise<void> {
  const point = `${image}.export`;
  writeFileSync(point, '');
  const daemon = serve('qemu-storage-daemon', [
    ...['--blockdev', `driver=file,node-name=file,filename=${image}`],
    ...['--blockdev', 'driver=qcow2,node-name=disk,file=file,discard=unmap'],
    ...['--export', `type=fuse,id=export,node-name=disk,mountpoint=${point},writable=on`],
  ]);
  try {
    await untilMounted(point, true);
    const disk = await open(point, 'r+');
    const buffer = Buffer.alloc(16 * CLUSTER);
    for (const { offset, length } of runs) {
      await content.read(buffer, 0, length, offset);
      await disk.write(buffer, 0, length, offset);
    }
    await disk.sync();
    await disk.close();
  } finally {
    await daemon.stop();
    if (isMounted(point)) await run('umount', ['-l', point]);
  }
}
