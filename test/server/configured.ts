/** A daemon with a configuration of two volumes, a group and schedules, and its commands. */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { ASOF, asof, asofJson, eventually } from '../cli/asof.js';
import { emptyFile, MiB, scratch } from '../cow/lab.js';

export async function serve(t: Test, config: string) {
  const child: ChildProcess = spawn(ASOF, ['serve', '--config', config, '--json'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise(done => child.on('close', done));
  let stdout = '';
  child.stdout!.on('data', piece => {
    stdout += piece;
  });
  t.teardown(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  await Promise.race([ended, eventually(() => stdout.endsWith('}\n'), 'the daemon is ready')]);
  t.equal(child.exitCode, null, 'the daemon is ready');
  return async (signal: NodeJS.Signals = 'SIGTERM') => {
    child.kill(signal);
    await ended;
  };
}

export interface Told {
  readonly state: string;
  readonly next: string | null;
  readonly last: { readonly outcome: string; readonly why: string; readonly groups: string[] } | null;
  readonly groups: string[];
  readonly exposure: { readonly volume: string; readonly point: string | null }[];
}

export function setting(t: Test, schedules: string) {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const config = join(folder, 'asof.yaml');
  for (const name of ['a', 'b']) emptyFile(join(folder, name), MiB);
  writeFileSync(
    config,
    `state: state
logLevel: silent
defaults: {durability: process}
volumes: {a: {origin: a}, b: {origin: b}}
groups: {both: [a, b]}
schedules:
${schedules}`,
  );
  const ask = <T = Told>(...argv: string[]) => asofJson<T>(...argv, '--state', state);
  const said = async (...argv: string[]) => {
    const { status, stdout, stderr } = await asof(...argv, '--state', state);
    return { status, stdout: stdout.toString(), stderr };
  };
  return { folder, state, config, ask, said };
}
