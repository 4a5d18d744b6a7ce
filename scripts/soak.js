#!/usr/bin/env node
/**
 * `npm run soak [-- [NAME...] --minutes N --seed S]`: the end-to-end tests of live volumes and histories, for as long as it is told
 * (60 minutes). Each goes round until its share of the time is over, with another seed each round. It ends with status 1 at
 * the first difference, and says the seed. SIGINT ends it at the next step. It wants some 20 GB in $TMPDIR.
 *
 * The seed brings back the same operations. Where programs run side by side, it does not bring back their order.
 */
import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ROOT } from './build.js';
import { leftovers } from './leftovers.js';
import { run, setup } from './setup.js';
import { SetupError } from './system.js';

/** What there is to soak, and the compiled test of each. */
const TESTS = {
  fsx: 'live-fsx',
  fio: 'live-fio-verify',
  ext4: 'snapshots-ext4',
  xfs: 'snapshots-xfs',
  btrfs: 'snapshots-btrfs',
  postgresql: 'postgresql',
  history: 'history',
  'history-ext4': 'history-ext4',
  'history-xfs': 'history-xfs',
  'history-ntfs': 'history-ntfs',
  'history-disk': 'history-disk',
};

async function main() {
  const { minutes, names, seed } = settings(process.argv.slice(2));
  setup(['build', 'run'], ['demo', 'test']);
  const scratch = mkdtempSync(join(tmpdir(), 'asof-soak-'));
  chmodSync(scratch, 0o755); // the database is another user
  const stop = { asked: false, child: undefined };
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.on(signal, () => {
      if (!stop.asked) console.log('stopping at the next step');
      stop.asked = true;
      stop.child?.kill('SIGINT');
    });
  }
  console.log(`seed ${seed}, ${minutes} minutes, of each an equal part: ${names.join(', ')}`);
  let failed;
  for (const name of names) {
    console.log(`${name}:`);
    const seconds = Math.max(1, Math.round((minutes * 60) / names.length));
    if (!(await soak(TESTS[name], { seconds, seed, scratch, stop }))) failed = name;
    if (failed || stop.asked) break;
  }
  const left = leftovers([scratch]);
  for (const line of left) console.log(`left behind: ${line}`);
  if (left.length === 0) rmSync(scratch, { recursive: true, force: true });
  if (failed) console.log(`failed: npm run soak -- --only ${failed}, with the last seed above`);
  else console.log(stop.asked ? 'stopped, nothing found so far' : 'nothing found');
  return failed || left.length > 0 ? 1 : 0;
}

function settings(argv) {
  let values;
  let positionals;
  try {
    ({ values, positionals } = parseArgs({
      args: argv,
      allowPositionals: true,
      options: { minutes: { type: 'string' }, only: { type: 'string' }, seed: { type: 'string' } },
    }));
  } catch (error) {
    throw new SetupError(error.message);
  }
  const minutes = Number(values.minutes ?? 60);
  if (!(minutes > 0)) throw new SetupError(`--minutes is ${values.minutes}; it is a number above 0`);
  const seed = Number(values.seed ?? Math.floor(Date.now() / 1000) % 1e9);
  if (!(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)) {
    throw new SetupError(`--seed is ${values.seed}; it is a whole number below 2^32`);
  }
  const all = Object.keys(TESTS);
  const names = values.only === undefined ? positionals : [values.only, ...positionals];
  const unknown = names.find(name => !all.includes(name));
  if (unknown !== undefined) throw new SetupError(`${unknown} is none of ${all.join(', ')}`);
  return { minutes, seed, names: names.length > 0 ? names : all };
}

/**
 * Runs one test. It is a process group of its own: Ctrl-C in a terminal must reach the tests in one place alone, for the
 * programs that they run have to go on until they are taken down.
 */
function soak(test, { seconds, seed, scratch, stop }) {
  return new Promise((done, failed) => {
    const child = spawn(
      process.execPath,
      ['--import=./scripts/plain-children.js', `dist/test/end-to-end/${test}.test.js`],
      {
        cwd: ROOT,
        detached: true,
        stdio: ['ignore', 'inherit', 'inherit'],
        env: {
          ...process.env,
          TMPDIR: scratch,
          CI: 'true', // what is missing here is no reason to find nothing
          ASOF_SOAK_SECONDS: String(seconds),
          ASOF_SOAK_SEED: String(seed),
        },
      },
    );
    stop.child = child;
    child.on('error', failed);
    child.on('close', status => {
      stop.child = undefined;
      done(status === 0);
    });
  });
}

await run(main);
