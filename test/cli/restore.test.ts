/**
 * restore of sectors, as a user runs it: every point of a history, by every name that it has, to files and block devices,
 * equals the bytes that were written; onto a larger disk with its GPT, and one partition. Oracles: the model's bytes, sgdisk,
 * sfdisk, e2fsck.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { noise, qemuImg } from '../image/peer.js';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { asof, asofJson } from './asof.js';

t.setTimeout(240_000);

const MIB = 2 ** 20;

function scratch(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'asof-restore-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A loop device on a new file of that size, filled with what must not be there afterwards. */
async function device(t: Test, folder: string, name: string, size: number): Promise<string> {
  const path = join(folder, name);
  writeFileSync(path, Buffer.alloc(size, 0xa5));
  t.teardown(() => detachLoops(path));
  return (await run('losetup', ['-f', '--show', path])).trim();
}

const backup = (source: string, to: string) => asofJson<Manifest>('backup', source, '--to', to);
const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const shaOf = (path: string) => sha(readFileSync(path));

interface Answer {
  readonly written: number;
  readonly verified: number | null;
  readonly gptMoved: boolean;
  readonly held: number;
}

t.test(
  'every point, by every name, to files and devices',
  { skip: missing(['losetup'], ['root', 'loop']) },
  async t => {
    const folder = scratch(t);
    const history = join(folder, 'history');
    const source = join(folder, 'disk.img');
    // The disk ends within a cluster; it has holes, noise over their edges, and zeros where there was noise.
    const model = Buffer.alloc(5 * MIB + 1536);
    noise(1, 700_000).copy(model, 100_000);
    noise(2, 400_000).copy(model, 3 * MIB + 77);
    noise(3, 1000).copy(model, model.length - 1000);
    writeFileSync(source, model);
    const points: { id: string; bytes: Buffer; file: string }[] = [];
    const take = async () => {
      const manifest = await backup(source, history);
      points.push({ id: manifest.id, bytes: Buffer.from(model), file: manifest.image.file });
    };
    await take();
    model.fill(0, 200_000, 500_000);
    noise(4, 5000).copy(model, 2 * MIB);
    writeFileSync(source, model);
    await take();
    for (const [i, { id, bytes, file }] of points.entries()) {
      const names = [
        `${history}@${id.slice(0, 8)}`,
        join(history, file),
        join(history, file.replace('qcow2', 'json')),
      ];
      if (i === points.length - 1) names.push(history, `${history}@2200-01-01`);
      for (const [n, name] of names.entries()) {
        const target = join(folder, `target-${i}-${n}`);
        const answer = await asofJson<Answer>('restore', name, target);
        t.equal(shaOf(target), sha(bytes), name);
        t.ok(answer.verified! > 0 && answer.written <= 2 * MIB + 65536, 'zeros are not written');
        t.ok(statSync(target).blocks * 512 < 2.5 * MIB, 'sparse');
      }
      // A raw copy of the same by another program is an image with no digests.
      const raw = join(folder, `raw-${i}`);
      writeFileSync(raw, bytes);
      t.equal((await asof('restore', raw, join(folder, `copy-${i}`), '--rate', '1G')).status, 0);
      t.equal(shaOf(join(folder, `copy-${i}`)), sha(bytes), 'of a raw image');
      const loop = await device(t, folder, `device-${i}`, 6 * MIB);
      await asofJson('restore', `${history}@${id}`, loop);
      const there = readFileSync(loop);
      t.equal(sha(there.subarray(0, bytes.length)), sha(bytes), 'a device');
      t.ok(
        there.subarray(bytes.length).every(byte => byte === 0xa5),
        'what lies behind the disk is left alone',
      );
    }
    const image = join(folder, 'image.qcow2');
    qemuImg('convert', '-f', 'raw', '-O', 'qcow2', source, image);
    t.equal((await asof('restore', image, join(folder, 'of-qcow2'), '--no-verify')).status, 0);
    t.equal(
      sha(readFileSync(join(folder, 'of-qcow2')).subarray(0, model.length)),
      sha(model),
      'of any qcow2 image',
    );
  },
);

t.test('dry run, and a target that is overwritten', async t => {
  const folder = scratch(t);
  const history = join(folder, 'history');
  const source = join(folder, 'disk.img');
  const bytes = noise(5, 3 * MIB);
  writeFileSync(source, bytes);
  await backup(source, history);
  const target = join(folder, 'target');
  const dry = await asof('restore', history, target, '--dry-run');
  t.equal(dry.status, 0);
  t.match(dry.stdout.toString(), /nothing was written/);
  t.equal(statSync(target, { throwIfNoEntry: false }), undefined);
  writeFileSync(target, noise(6, 4 * MIB));
  t.equal((await asof('restore', history, target)).status, 2);
  t.equal((await asof('restore', history, target, '--force')).status, 0);
  const there = readFileSync(target);
  t.equal(sha(there.subarray(0, bytes.length)), sha(bytes));
  t.equal(there.length, 4 * MIB, 'a larger file stays larger');
  t.ok(
    there.subarray(bytes.length).every(byte => byte === 0),
    'and nothing of it is left',
  );
});

t.test(
  'a larger disk, and one partition',
  { skip: missing(['sfdisk', 'sgdisk', 'mkfs.ext4', 'e2fsck', 'losetup'], ['root', 'loop']) },
  async t => {
    const folder = scratch(t);
    for (const label of ['gpt', 'dos'] as const) {
      const history = join(folder, label);
      const source = join(folder, `${label}.img`);
      writeFileSync(source, '');
      truncateSync(source, 40 * MIB);
      const parts =
        label === 'gpt'
          ? 'start=2048,size=16384\nsize=32768\n'
          : 'start=2048,size=16384\ntype=5\nsize=4096\nsize=32768\n';
      await run('sfdisk', ['--quiet', source], { input: `label: ${label}\n${parts}` });
      const listed = JSON.parse(await run('sfdisk', ['--json', source])) as {
        partitiontable: { partitions: { node: string; start: number; size: number }[] };
      };
      const { partitions } = listed.partitiontable;
      const last = partitions.at(-1)!;
      const number = Number(/(\d+)$/.exec(last.node)![1]);
      t.equal(number, label === 'gpt' ? 2 : 6);
      const fs = join(folder, `${label}.fs`);
      writeFileSync(fs, '');
      truncateSync(fs, last.size * 512);
      await run('mkfs.ext4', ['-q', '-F', fs]);
      const fd = openSync(source, 'r+');
      writeSync(fd, readFileSync(fs), 0, last.size * 512, last.start * 512);
      closeSync(fd);
      await backup(source, history);

      const one = join(folder, `${label}.part`);
      await asofJson('restore', history, one, '--partition', String(number));
      t.equal(shaOf(one), shaOf(fs), `${label}: partition ${number}`);
      t.equal((await attempt('e2fsck', ['-fn', one])).code, 0);
      const none = await asof('restore', history, join(folder, 'none'), '--partition', '9', '--json');
      t.match(none.stderr, /PARTITION_UNKNOWN/);

      const size = 64 * MIB + 512;
      const larger = join(folder, `${label}.larger`);
      writeFileSync(larger, '');
      truncateSync(larger, size);
      const loop = await device(t, folder, `${label}.device`, 48 * MIB);
      for (const target of [larger, loop]) {
        const answer = await asofJson<Answer>('restore', history, target);
        t.equal(answer.gptMoved, label === 'gpt');
        const verify = await run('sfdisk', ['--verify', target]);
        t.match(verify, /No errors detected/);
        t.equal(
          sha(readFileSync(target).subarray(last.start * 512, (last.start + last.size) * 512)),
          shaOf(fs),
        );
        if (label !== 'gpt') continue;
        const judged = await attempt('sgdisk', ['--verify', target]);
        t.match(judged.stdout.toString(), /No problems found/);
        // The whole of the disk can be used now, and the second header is one to recover from.
        const after = (await run('sgdisk', ['--print', target])).toString();
        const usable = Math.floor(statSync(target).size || 48 * MIB) / 512 - 34;
        t.match(after, new RegExp(`last usable sector is ${usable}`));
      }
      const exact = join(folder, `${label}.exact`);
      await asofJson('restore', history, exact);
      t.equal(shaOf(exact), shaOf(source), 'a target of the same size is the disk, byte for byte');
    }
  },
);
