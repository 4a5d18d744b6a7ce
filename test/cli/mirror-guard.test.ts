/**
 * A mirror is not made to follow its source into ruin: a run stops before it writes where too much would change, where the
 * table of partitions or a file system is gone or another one, and where the source cannot be read. The first run does not.
 */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import t from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { noise } from '../image/peer.js';
import { missing, run } from '../peers.js';
import { asof, asofJson } from './asof.js';
import { MIB, MirrorLab, poke, sha } from './mirror-lab.js';

t.setTimeout(240_000);

t.test('a share', async t => {
  const lab = new MirrorLab(t);
  // 2 of 16 MiB are in use: it is of these that the share is.
  const bytes = Buffer.alloc(16 * MIB);
  noise(1, 2 * MIB).copy(bytes, 4 * MIB);
  const source = lab.file('source.img', bytes);
  const target = lab.path('target');
  await lab.mirror(source, target);
  poke(source, 4 * MIB, noise(2, MIB));
  await lab.refused('MIRROR_GUARDED', 2, /50 % .* 30 % are allowed/, source, target);
  await lab.refused('MIRROR_GUARDED', 2, /50 %/, source, target, '--guard', '49.9%', '--dry-run');
  t.equal((await lab.status(target)).state, 'whole');
  await lab.mirror(source, target, '--guard', '50%');
  poke(source, 4 * MIB, Buffer.alloc(2 * MIB));
  await lab.refused('MIRROR_GUARDED', 2, /100 %/, source, target);
  await lab.mirror(source, target, '--accept-changes');
  t.equal(sha(readFileSync(target)), sha(readFileSync(source)));
});

t.test('what looks destroyed', { skip: missing(['sfdisk', 'mkfs.ext4', 'mkfs.xfs', 'mkswap']) }, async t => {
  const lab = new MirrorLab(t);
  const source = lab.file('source.img', Buffer.alloc(0));
  truncateSync(source, 28 * MIB);
  await run('sfdisk', ['--quiet', source], {
    input: 'label: gpt\nstart=2048,size=16384\nsize=16384\nsize=4096\n',
  });
  const make = async (start: number, size: number, ...program: string[]) => {
    const fs = lab.file('fs', Buffer.alloc(0));
    truncateSync(fs, size * 512);
    await run(program[0]!, [...program.slice(1), fs]);
    poke(source, start * 512, readFileSync(fs));
  };
  await make(2048, 16384, 'mkfs.ext4', '-q', '-F');
  await make(18432, 16384, 'mkfs.ext4', '-q', '-F');
  await make(34816, 4096, 'mkswap', '-q');
  // Noise, so that no case is one of the share.
  poke(source, 20 * MIB, noise(1, 6 * MIB));
  const good = readFileSync(source);
  const target = lab.path('target');
  await lab.mirror(source, target);

  const cases: [what: RegExp, ruin: () => Promise<void> | void][] = [
    [/GPT table of partitions is gone/, () => poke(source, 0, Buffer.alloc(512))],
    [/GPT table of partitions is damaged/, () => poke(source, 1024, noise(2, 512))],
    [/the ext4 at byte 1048576 is gone/, () => poke(source, MIB + 1024, Buffer.alloc(1024))],
    [/the ext4 at byte 9437184 is another one/, () => make(18432, 16384, 'mkfs.ext4', '-q', '-F')],
    [/the ext4 at byte 1048576 is gone: there is swap/, () => make(2048, 16384, 'mkswap', '-q')],
  ];
  for (const [what, ruin] of cases) {
    await ruin();
    await lab.refused('MIRROR_GUARDED', 2, what, source, target);
    await lab.refused('MIRROR_GUARDED', 2, what, source, target, '--guard', '100%');
    writeFileSync(source, good);
  }
  await make(34816, 4096, 'mkswap', '-q');
  await lab.mirror(source, target);
  t.pass('swap may be made anew');
  poke(source, 0, Buffer.alloc(512));
  await lab.mirror(source, target, '--accept-changes');
  t.equal(sha(readFileSync(target)), sha(readFileSync(source)), 'where it was said');
  t.equal((await lab.mirror(source, target)).written, 0, 'and then it is as it is');
});

t.test('a source that cannot be read', async t => {
  const lab = new MirrorLab(t);
  const history = lab.path('history');
  const bytes = noise(1, 4 * MIB);
  const source = lab.file('source.img', bytes);
  await asofJson('backup', source, '--to', history, '--compress', 'none');
  const target = lab.path('target');
  await lab.mirror(history, target);
  noise(2, 65536).copy(bytes, 2 * MIB);
  writeFileSync(source, bytes);
  const second = await asofJson<Manifest>('backup', source, '--to', history, '--compress', 'none');
  const image = `${history}/${second.image.file}`;
  const stored = readFileSync(image);
  const at = stored.indexOf(bytes.subarray(2 * MIB, 2 * MIB + 512));
  poke(image, at + 100, Buffer.from([stored[at + 100]! ^ 1]));
  const ended = await asof('mirror', history, target, '--state', lab.state, '--json');
  t.equal(ended.status, 3);
  t.match(ended.stderr, /DAMAGED.*not those that were backed up.*marked as being updated/);
  t.equal((await lab.status(target)).state, 'updating', 'it broke while it was written');
  poke(image, at + 100, Buffer.from([stored[at + 100]!]));
  await lab.mirror(history, target);
  t.equal(sha(readFileSync(target)), sha(bytes));

  // An image that ends too early is found while the two are compared: nothing has been written then.
  const qcow2 = lab.path('short.qcow2');
  await run('qemu-img', ['convert', '-O', 'qcow2', source, qcow2]);
  const copy = lab.path('copy');
  await lab.mirror(qcow2, copy);
  truncateSync(qcow2, 3 * MIB);
  await lab.refused('DAMAGED', 3, /nothing of the target was written/, qcow2, copy);
  t.equal((await lab.status(copy)).state, 'whole');
});
