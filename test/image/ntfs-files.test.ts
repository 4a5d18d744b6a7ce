/**
 * An NTFS that lies: whatever its records say, looking for a paging file ends, and what it finds lies within the file system. In
 * a sound one it finds the very bytes.
 */
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { hibernated, ntfsRootFiles, ntfsUnrest } from '../../src/image/ntfs-files.js';
import { missing, run } from '../peers.js';
import { random } from './history-lab.js';
import { folder, noise } from './peer.js';

t.setTimeout(120_000);

const SIZE = 16 * 2 ** 20;
const ROUNDS = 600;
const PAGES = noise(1, 4000 * 4096);

t.test('records that lie', { skip: missing(['mkntfs', 'ntfs-3g', 'umount'], ['root', 'fuse']) }, async t => {
  const home = folder(t);
  const image = join(home, 'disk.img');
  writeFileSync(image, '');
  truncateSync(image, SIZE);
  await run('mkntfs', ['-q', '-F', image]);
  const at = join(home, 'mnt');
  mkdirSync(at);
  await run('ntfs-3g', [image, at]);
  try {
    for (let i = 0; i < 60; i++) writeFileSync(join(at, `some file, number ${i}`), noise(i, 3000));
    // As many pieces as do not fit into one record: in the gaps of a file system that was full.
    const fillers: string[] = [];
    try {
      for (let i = 0; i < 10_000; i++) {
        fillers.push(join(at, `filler ${i}`));
        writeFileSync(fillers.at(-1)!, noise(2, 4096));
      }
    } catch {
      // It is full.
    }
    for (let i = 0; i < fillers.length; i += 2) rmSync(fillers[i]!, { force: true });
    const fd = openSync(join(at, 'pagefile.sys'), 'w');
    try {
      for (let at = 0; at < PAGES.length; at += 4096) writeSync(fd, PAGES, at, 4096, at);
    } catch {
      // It is full again.
    } finally {
      closeSync(fd);
    }
  } finally {
    await run('umount', [at]);
  }
  const sound = readFileSync(image);
  const reader = (bytes: Buffer) => async (offset: number, length: number) =>
    bytes.subarray(Math.min(offset, SIZE), Math.min(offset + length, SIZE));
  const found = await ntfsRootFiles(reader(Buffer.from(sound)), ['pagefile.sys']);
  if (typeof found === 'string') throw new Error(found);
  t.equal(found.length, 1);
  const bytes = Buffer.concat(
    found[0]!.runs!.map(([start, length]) => sound.subarray(start, start + length)),
  );
  t.ok(bytes.equals(PAGES.subarray(0, bytes.length)), 'its bytes are where it says');
  t.ok(
    found[0]!.runs!.length > 200,
    `${found[0]!.runs!.length}, in many pieces, which one record does not hold`,
  );
  t.equal(await ntfsUnrest(reader(Buffer.from(sound))), undefined);
  t.equal(await hibernated(reader(Buffer.from(sound))), undefined);

  const next = random(5);
  // The boot sector, the table of files, the index of the root: what is not zeros in the metadata.
  const places: number[] = [];
  for (let sector = 0; sector < SIZE / 512; sector++) {
    const text = sound.toString('latin1', sector * 512, sector * 512 + 4);
    if (sector === 0 || text === 'FILE' || text === 'INDX') places.push(sector * 512);
  }
  let told = 0;
  for (let i = 0; i < ROUNDS; i++) {
    const lying = Buffer.from(sound);
    for (let change = 1 + next(4); change > 0; change--) {
      const place = places[next(next(2) === 0 ? 12 : places.length)]! + next(512);
      const kind = next(3);
      if (kind === 0) lying[place] = next(256);
      else lying.writeUInt16LE(kind === 1 ? 0xffff : next(65536), Math.min(place, SIZE - 2));
    }
    const read = reader(lying);
    const unrest = await ntfsUnrest(read);
    if (unrest !== undefined) told++;
    await hibernated(read);
    const files = await ntfsRootFiles(read, ['pagefile.sys']);
    if (typeof files === 'string') continue;
    for (const { runs } of files) {
      if (runs?.some(([start, length]) => start < 0 || length <= 0 || start + length > SIZE))
        t.fail(`round ${i}`);
    }
  }
  t.ok(told > 0, `${told} of ${ROUNDS} were noticed`);
});
