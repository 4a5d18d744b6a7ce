/**
 * Origins, file systems on them, and volumes of a state directory, for tests. What is mounted or attached goes when the
 * test is over.
 */
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { StateFolder } from '../../src/cow/state-folder.js';
import { type ChangesQuery, Volumes, type VolumesOptions } from '../../src/cow/volumes.js';
import { createLog } from '../../src/log.js';
import { detachLoops, run } from '../peers.js';

export const LOG = createLog('silent');
export const MiB = 2 ** 20;

export function scratch(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'asof-cow-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export function emptyFile(path: string, size: number): string {
  writeFileSync(path, '');
  truncateSync(path, size);
  return path;
}

export async function loop(t: Test, path: string): Promise<string> {
  const device = (await run('losetup', ['-f', '--show', path])).trim();
  t.teardown(() => detachLoops(path));
  return device;
}

/** Mounts by `program`, lets `work` see it, and unmounts. */
export async function whileMounted(
  folder: string,
  mount: readonly [program: string, ...args: string[]],
  work: (there: string) => Promise<void> | void,
): Promise<void> {
  const there = join(folder, 'there');
  mkdirSync(there, { recursive: true });
  const [program, ...args] = mount;
  await run(program, [...args, there]);
  try {
    await work(there);
  } finally {
    await run('umount', [there]);
  }
}

/** The volumes of a state directory, and the two ways in which a daemon ends. */
export async function openVolumes(t: Test, path: string, more: Partial<VolumesOptions> = {}) {
  const state = StateFolder.open(path);
  const volumes = await Volumes.open({ state, log: LOG, invalid: () => {}, ...more });
  let open = true;
  const close = async () => {
    if (!open) return;
    open = false;
    await volumes.close();
    state.close();
  };
  t.teardown(close);
  return { volumes, close };
}

/** All that changed, gathered. */
export async function changesOf(volumes: Volumes, name: string, query: ChangesQuery) {
  const { since, pieces } = volumes.changes(name, query);
  const runs: number[] = [];
  for (;;) {
    const { value, done } = await pieces.next();
    if (done) return { since, runs, ...value };
    runs.push(...value);
  }
}

/** The code of what `work` throws; '' where it does not. */
export async function codeOf(work: () => unknown): Promise<string> {
  try {
    await work();
    return '';
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
}
