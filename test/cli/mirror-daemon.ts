/** A daemon with a mount, for tests that mirror what it protects. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import type { Test } from 'tap';
import { attempt } from '../peers.js';
import { ASOF, eventually } from './asof.js';
import type { MirrorLab } from './mirror-lab.js';

/** Returns where it shows its volumes, and what ends it cleanly. */
export async function serve(t: Test, lab: MirrorLab) {
  const mount = lab.path('mount');
  mkdirSync(mount, { recursive: true });
  t.teardown(() => attempt('umount', ['-l', mount]));
  const argv = ['serve', '--state', lab.state, '--mount', mount, '--log-level', 'error'];
  const child = spawn(ASOF, argv, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.teardown(() => end(child));
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', piece => {
    text += piece;
  });
  await eventually(() => text.endsWith('\n') || child.exitCode !== null, 'the daemon is ready');
  return { mount, end: () => end(child) };
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise(done => child.on('close', done));
  child.kill('SIGTERM');
  await ended;
}
