/**
 * `npm test [FILES]`: sets up, lints, runs every test (or the named compiled files), and says in its last line how
 * it went. It fails where tap does, where the linter does, and where the tests left mounts, loop devices or
 * processes behind.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { ROOT } from './build.js';
import { leftovers } from './leftovers.js';
import { run, setup } from './setup.js';

async function main() {
  setup(['build'], ['run', 'demo', 'test', 'bench']);
  if (!lint()) return 1;

  // All that the tests make lies in one folder: what is left of them is recognised by it.
  const scratch = mkdtempSync(join(tmpdir(), 'asof-test-'));
  chmodSync(scratch, 0o1777); // some tests become another user
  const { passed, report } = await tap(process.argv.slice(2).map(compiled), scratch);
  const left = await settled([scratch, join(ROOT, '.tap')]);
  for (const line of left) console.log(`left behind: ${line}`);
  if (left.length === 0) rmSync(scratch, { recursive: true, force: true });

  for (const line of skips(report)) console.log(`skipped: ${line}`);
  const count = totals(report);
  console.log(`${count.pass} passed, ${count.fail} failed, ${count.skip + count.todo} skipped`);
  return passed && left.length === 0 && count.pass > 0 ? 0 : 1;
}

function lint() {
  const biome = join(ROOT, 'node_modules/@biomejs/biome/bin/biome');
  const { status } = spawnSync(process.execPath, [biome, 'check', '--error-on-warnings', '.'], {
    cwd: ROOT,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  return status === 0;
}

/** `test/x.test.ts` may be named instead of what it is compiled to. */
function compiled(file) {
  const match = /^(?:\.\/)?(test\/.*)\.ts$/.exec(file);
  return match ? `dist/${match[1]}.js` : file;
}

/**
 * Runs tap, which writes TAP (https://testanything.org). A line a test file is shown as it ends, and of one that
 * fails all that it said.
 */
async function tap(files, scratch) {
  const runner = join(ROOT, 'node_modules/tap/dist/esm/run.mjs');
  const child = spawn(process.execPath, [runner, '--reporter=tap', ...files], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, TMPDIR: scratch },
  });
  const ended = once(child, 'close');
  const lines = [];
  let file = [];
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line);
    file.push(line);
    if (!/^(not )?ok \d/.test(line)) continue;
    if (line.startsWith('not ')) console.log(file.join('\n'));
    else console.log(line);
    file = [];
  }
  const [status, signal] = await ended;
  if (status !== 0) console.log(`tap ended with ${signal ?? `status ${status}`}`);
  return { passed: status === 0, report: lines.join('\n') };
}

/** A server that was told to end may take a moment. */
async function settled(folders) {
  let left = leftovers(folders);
  for (let i = 0; i < 50 && left.length > 0; i++) {
    await sleep(100);
    left = leftovers(folders);
  }
  return left;
}

/** tap closes its report with its own totals of assertions: `# { total: 7, pass: 4, todo: 1, skip: 2 }`. */
function totals(text) {
  const count = { pass: 0, fail: 0, skip: 0, todo: 0 };
  const last = text.match(/^# \{ total: .*\}$/gm)?.at(-1) ?? '';
  for (const key of Object.keys(count))
    count[key] = Number(new RegExp(`${key}: (\\d+)`).exec(last)?.[1] ?? 0);
  return count;
}

/** The titles of what was skipped, with the reason. */
function skips(text) {
  return [...text.matchAll(/^ *ok \d+ - (.*) # SKIP ?(.*)$/gm)].map(
    ([, title, why]) => `${title}${why ? `: ${why}` : ''}`,
  );
}

await run(main);
