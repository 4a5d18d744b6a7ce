/**
 * Beginning and end: reads that are under way when a disk, an engine, a worker or the process ends. What must not be
 * is a hang; each case runs in a process of its own, which is killed, and fails, after a minute.
 */
import { execFile } from 'node:child_process';
import { readdirSync, readlinkSync, realpathSync } from 'node:fs';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { Disk } from '../../src/block/disk.js';
import type { Extent } from '../../src/block/extent.js';
import { Engine } from '../../src/native.js';
import { listedDisk, Model } from './model.js';

const OPTIONS = { cacheBytes: 2 ** 20, mapBytes: 2 ** 20, threads: 2 };

const model = new Model();
t.teardown(() => model.close());
const runs: Extent[] = Array.from(
  { length: 40 },
  (_, i) => model.run(i % 2 ? 'packed' : 'data', 6 + i, i * 999, i) as Extent,
);
const bytes = Buffer.from(model.render(runs));

/** Right, or closed: nothing between. */
async function rightOrClosed(read: Promise<Buffer>, expected: Buffer): Promise<string> {
  return read.then(
    got => (got.equals(expected) ? 'right' : 'wrong'),
    error => (error as { code: string }).code,
  );
}

t.test('a disk is closed while it is read', async t => {
  const engine = new Engine(OPTIONS);
  t.teardown(() => engine.close());
  const answers = new Set<string>();
  for (let i = 0; i < 20; i++) {
    const disk = new Disk(engine, listedDisk(runs));
    if (i % 2) await disk.read(0, 1);
    const reads = Array.from({ length: 20 }, () => rightOrClosed(disk.read(0, bytes.length), bytes));
    for (let ticks = 0; ticks < i; ticks++) await new Promise(resolve => setImmediate(resolve));
    disk.close();
    disk.close();
    for (const answer of await Promise.all(reads)) answers.add(answer);
    t.equal(await rightOrClosed(disk.read(0, 1), bytes.subarray(0, 1)), 'ESHUTDOWN');
  }
  t.ok(
    [...answers].every(answer => answer === 'right' || answer === 'ESHUTDOWN'),
    [...answers].join(),
  );
  t.ok(answers.has('ESHUTDOWN'));
});

t.test('a closed engine holds no file open', async t => {
  const engine = new Engine(OPTIONS);
  const disk = new Disk(engine, listedDisk(runs));
  t.equal(await rightOrClosed(disk.read(0, bytes.length), bytes), 'right');
  const path = realpathSync(`/proc/self/fd/${model.plain.fd}`);
  const open = () => readdirSync('/proc/self/fd').filter(fd => target(fd) === path).length;
  const target = (fd: string) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ''; // the one that read the directory
    }
  };
  const before = open();
  engine.close();
  t.equal(before - open(), 1, 'though the disk is still there');
  t.equal(await rightOrClosed(disk.read(0, 1), bytes.subarray(0, 1)), 'ESHUTDOWN');
});

t.test('an engine is closed while its disks are read', async t => {
  for (let i = 0; i < 10; i++) {
    const engine = new Engine(OPTIONS);
    const disks = [0, 1, 2].map(() => new Disk(engine, listedDisk(runs)));
    const reads = disks.flatMap(disk =>
      Array.from({ length: 10 }, () => rightOrClosed(disk.read(0, bytes.length), bytes)),
    );
    for (let ticks = 0; ticks < i; ticks++) await new Promise(resolve => setImmediate(resolve));
    engine.close();
    engine.close();
    const answers = await Promise.all(reads);
    t.ok(answers.every(answer => answer === 'right' || answer === 'ESHUTDOWN'));
    for (const disk of disks) disk.close();
    t.throws(() => engine.fileId({ fd: 0, path: '' }), { code: 'ESHUTDOWN' });
    t.throws(() => engine.openDisk(0, 512, false, () => undefined as never), { code: 'ESHUTDOWN' });
    t.equal(engine.stats().mapBytes, 0);
  }
});

t.test('arguments that cannot be', async t => {
  for (const options of [
    {},
    { ...OPTIONS, threads: 257 },
    { ...OPTIONS, cacheBytes: -1 },
    { ...OPTIONS, mapBytes: Number.NaN },
  ]) {
    t.throws(() => new Engine(options as typeof OPTIONS), { code: 'EINVAL' });
  }
  const engine = new Engine(OPTIONS);
  t.teardown(() => engine.close());
  t.throws(() => engine.fileId({ fd: 999_999, path: 'x' }), { code: 'EBADF' });
  t.throws(() => engine.fileId({ fd: -1, path: 'x' }), { code: 'EINVAL' });
  const resolve = () => ({ start: 0, rows: Float64Array.of(0, 512, 0, 0, 0, 0, 0, 0), reasons: [] });
  t.throws(() => engine.openDisk(-1, 512, false, resolve), { code: 'EINVAL' });
  t.throws(() => engine.openDisk(2 ** 53, 512, false, resolve), { code: 'EINVAL' });
  t.throws(() => engine.openDisk(512, 1024, false, resolve), { code: 'EINVAL' });
  t.throws(() => engine.openDisk(512, 512, false, undefined as never), { code: 'EINVAL' });
  const disk = engine.openDisk(512, 512, false, resolve);
  for (const [offset, length] of [
    [0, 513],
    [513, 0],
    [-1, 1],
    [0.5, 1],
    [2 ** 60, 1],
  ] as const) {
    t.throws(() => disk.read(offset, Buffer.alloc(length)), { code: 'OUT_OF_RANGE' });
  }
  t.throws(() => disk.read(0, new Uint16Array(1) as never), { code: 'EINVAL' });
  t.throws(() => disk.setAllocated(513), { code: 'EINVAL' });
  t.throws(() => new (disk.constructor as new () => unknown)(), { code: 'EINVAL' });
  t.throws(() => disk.read.call({} as never, 0, Buffer.alloc(1)), TypeError);
  await t.resolves(disk.read(0, Buffer.alloc(512)));
});

/** Runs a script with `engine`, `disk` (1 GiB of zeros, each read of it asks) and `Engine` at hand. */
async function script(
  t: Test,
  name: string,
  body: string,
  expected: { code: number; stdout?: string },
): Promise<void> {
  const source = new URL('../../src/native.js', import.meta.url).href;
  const text = `
    import { Engine } from ${JSON.stringify(source)};
    import { Worker, isMainThread } from 'node:worker_threads';
    const engine = new Engine({ cacheBytes: 2 ** 20, mapBytes: 0, threads: 3 });
    const zero = offset => ({ start: offset - offset % 65536, rows: Float64Array.of(0, 65536, 0, 0, 0, 0, 0, 0), reasons: [] });
    const disk = engine.openDisk(2 ** 30, 512, false, zero);
    const read = (offset = 0, length = 2 ** 20) => disk.read(offset, Buffer.alloc(length));
    ${body}`;
  const run = promisify(execFile)(process.execPath, ['--input-type=module', '-e', text], { timeout: 60_000 });
  const result = await run.then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error: { code: number; stdout: string; stderr: string }) => error,
  );
  t.equal(result.code, expected.code, `${name}: ${result.stderr}`);
  t.equal(result.stdout.trim(), expected.stdout ?? '', name);
}

t.test('an idle engine does not keep Node alive', t =>
  script(t, 'idle', `await read(); console.log('read');`, { code: 0, stdout: 'read' }),
);
t.test('a read does keep Node alive', t =>
  script(t, 'reading', `read().then(() => console.log('read'));`, { code: 0, stdout: 'read' }),
);
t.test('process.exit while reads wait for JavaScript', t =>
  script(t, 'exit', `for (let i = 0; i < 9; i++) read(); setImmediate(() => process.exit(7));`, { code: 7 }),
);
t.test('process.exit at once', t => script(t, 'exit', `read(); process.exit(7);`, { code: 7 }));
t.test('an uncaught exception while reads wait', t =>
  script(t, 'throw', `read(); setImmediate(() => { throw new Error('thrown'); });`, { code: 1 }),
);
t.test('a rejection that nobody handles', t =>
  script(
    t,
    'rejection',
    `disk.close(); process.on('uncaughtException', e => { console.log(e.code); process.exit(3); }); read();`,
    {
      code: 3,
      stdout: 'ESHUTDOWN',
    },
  ),
);
t.test('process.exit from the answer itself', t =>
  script(
    t,
    'exit in answer',
    `const other = engine.openDisk(512, 512, false, () => process.exit(5)); other.read(0, Buffer.alloc(512)); read();`,
    { code: 5 },
  ),
);
t.test('the answer closes the disk', t =>
  script(
    t,
    'close in answer',
    `const other = engine.openDisk(512, 512, false, offset => { other.close(); return zero(offset); });
     await other.read(0, Buffer.alloc(512)).then(() => console.log('read'), e => console.log(e.code));`,
    { code: 0, stdout: 'ESHUTDOWN' },
  ),
);
t.test('the answer closes the engine', t =>
  script(
    t,
    'close in answer',
    `const other = engine.openDisk(512, 512, false, offset => { engine.close(); return zero(offset); });
     await other.read(0, Buffer.alloc(512)).then(() => console.log('read'), e => console.log(e.code));`,
    { code: 0, stdout: 'ESHUTDOWN' },
  ),
);

const WORKER = (end: string) => `
  if (isMainThread) {
    for (let i = 0; i < 4; i++) {
      const worker = new Worker(${JSON.stringify(
        `import(${JSON.stringify(new URL('../../src/native.js', import.meta.url).href)}).then(({ Engine }) => {
          const engine = new Engine({ cacheBytes: 2 ** 20, mapBytes: 0, threads: 3 });
          const disk = engine.openDisk(2 ** 30, 512, false, o => ({ start: o - o % 65536, rows: Float64Array.of(0, 65536, 0, 0, 0, 0, 0, 0), reasons: [] }));
          const loop = () => disk.read(0, Buffer.alloc(2 ** 20)).then(loop);
          loop(); loop();
          import('node:worker_threads').then(w => { w.parentPort.postMessage('up'); });
          ${end}
        });`,
      )}, { eval: true });
      await new Promise(resolve => worker.once('message', resolve));
      await new Promise(resolve => setTimeout(resolve, i * 5));
      await worker.terminate();
    }
    await read();
    console.log('read');
  }`;
t.test('a worker is terminated while its reads wait', t =>
  script(t, 'worker', WORKER(''), { code: 0, stdout: 'read' }),
);
t.test('a worker ends itself while its reads wait', t =>
  script(t, 'worker', WORKER('setTimeout(() => process.exit(), 3);'), { code: 0, stdout: 'read' }),
);
t.test('a worker throws while its reads wait', t =>
  script(
    t,
    'worker',
    WORKER('setTimeout(() => { throw new Error("end") }, 3);').replace(
      "await new Promise(resolve => worker.once('message'",
      "worker.on('error', () => {}); await new Promise(resolve => worker.once('message'",
    ),
    { code: 0, stdout: 'read' },
  ),
);

t.test('engines and disks that are forgotten are collected', t =>
  script(
    t,
    'collected',
    `
    const { setFlagsFromString } = await import('node:v8'); setFlagsFromString('--expose-gc');
    const gc = (await import('node:vm')).runInNewContext('gc');
    for (let i = 0; i < 50; i++) {
      const e = new Engine({ cacheBytes: 2 ** 20, mapBytes: 2 ** 20, threads: 1 });
      const d = e.openDisk(2 ** 30, 512, false, zero);
      await d.read(0, Buffer.alloc(512));
      if (i % 2) e.close();
      if (i % 8 === 0) gc();
    }
    gc();
    console.log('done');`,
    { code: 0, stdout: 'done' },
  ),
);
