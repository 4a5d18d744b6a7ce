/** An origin is ours alone: whoever has it keeps us out, and we keep out whoever asks. */
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Origin } from '../../src/cow/origin.js';
import { AsofError } from '../../src/errors.js';
import { attempt, missing, run } from '../peers.js';
import { codeOf, emptyFile, loop, MiB, scratch } from './lab.js';

t.setTimeout(120_000);

function refusal(path: string): string {
  try {
    Origin.open(path).close();
    return '';
  } catch (error) {
    if (error instanceof AsofError && error.code === 'ORIGIN_BUSY') return error.message;
    throw error;
  }
}

t.test('a second time', async t => {
  const path = emptyFile(join(scratch(t), 'origin'), MiB);
  const first = Origin.open(path);
  t.match(refusal(path), /in use/);
  first.close();
  t.equal(refusal(path), '');
});

t.test('a program that has it open for writing', async t => {
  const path = emptyFile(join(scratch(t), 'origin'), MiB);
  const fd = openSync(path, 'r+');
  t.match(refusal(path), /open for writing/);
  closeSync(fd);
  const reader = openSync(path, 'r');
  t.equal(refusal(path), '', 'a reader is in nobody’s way');
  closeSync(reader);
});

t.test('QEMU', { skip: missing(['qemu-io', 'qemu-img']) }, async t => {
  const path = emptyFile(join(scratch(t), 'origin'), MiB);
  const origin = Origin.open(path);
  const denied = await attempt('qemu-io', ['-f', 'raw', '-c', 'write -P 7 0 512', path]);
  t.not(denied.code, 0, 'QEMU cannot write');
  t.match(denied.stderr, /lock/);
  const read = await attempt('qemu-img', ['info', '-U', path]);
  t.equal(read.code, 0, 'but look');
  origin.close();
  t.equal((await attempt('qemu-io', ['-f', 'raw', '-c', 'write -P 7 0 512', path])).code, 0);

  const qemu = spawn('qemu-io', ['-f', 'raw', path], { stdio: ['pipe', 'pipe', 'ignore'] });
  t.teardown(() => qemu.kill('SIGKILL'));
  qemu.stdin.write('read 0 512\n');
  await new Promise(done => qemu.stdout.once('data', done));
  t.match(refusal(path), /open for writing|QEMU/);
  const ended = new Promise(done => qemu.on('close', done));
  qemu.stdin.end('quit\n');
  await ended;
  t.equal(refusal(path), '');
});

t.test(
  'a loop device, and what is mounted on it',
  { skip: missing(['losetup', 'mount', 'mke2fs'], ['root', 'loop']) },
  async t => {
    const folder = scratch(t);
    const path = emptyFile(join(folder, 'origin'), 8 * MiB);
    await run('mke2fs', ['-q', '-F', path]);
    const device = await loop(t, path);
    t.match(refusal(path), new RegExp(device), 'the file belongs to the device');
    const there = join(folder, 'there');
    mkdirSync(there);
    await run('mount', [device, there]);
    t.teardown(() => attempt('umount', [there]));
    t.match(refusal(device), new RegExp(`mounted on ${there}`));
    await run('umount', [there]);
    const origin = Origin.open(device);
    t.equal(origin.size, 8 * MiB);
    t.match(origin.device, { name: device.slice(5) });
    t.not((await attempt('mount', [device, there])).code, 0, 'what we have cannot be mounted');
    origin.close();
    await run('mount', [device, there]);
    await run('umount', [there]);
  },
);

t.test('what cannot be an origin', async t => {
  const folder = scratch(t);
  t.equal(await codeOf(() => Origin.open(folder)), 'ORIGIN_UNUSABLE');
  t.equal(await codeOf(() => Origin.open('/dev/null')), 'ORIGIN_UNUSABLE');
  t.equal(await codeOf(() => Origin.open(join(folder, 'nothing'))), 'NOT_FOUND');
  t.equal(await codeOf(() => Origin.open(emptyFile(join(folder, 'empty'), 0))), 'ORIGIN_UNUSABLE');
  t.equal(await codeOf(() => Origin.open(emptyFile(join(folder, 'odd'), 1000))), 'ORIGIN_UNUSABLE');
  const path = emptyFile(join(folder, 'file'), 512);
  symlinkSync(path, join(folder, 'link'));
  const origin = Origin.open(join(folder, 'link'));
  t.equal(origin.size, 512);
  origin.close();
  rmSync(path);
});
