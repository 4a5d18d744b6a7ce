/**
 * A backup that is killed, or meets an error, at its n-th call that changes something on disk. Node's fs is changed for this
 * process; the project's modules see it, since their imports are live bindings.
 *
 * As a program: node backup-victim.js FOLDER N kills itself before the n-th call; it ends with 0 where there were fewer.
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const CALLS = [
  'openSync',
  'writeSync',
  'fsyncSync',
  'renameSync',
  'rmSync',
  'mkdirSync',
  'ftruncateSync',
] as const;

/** `strike` is called before each call that changes something; what it throws is the call's error. */
export function watchCalls(strike: (call: string) => void): () => void {
  const mutable = fs as unknown as Record<string, (...args: unknown[]) => unknown>;
  const before = CALLS.map(name => mutable[name]!);
  CALLS.forEach((name, i) => {
    mutable[name] = (...args: unknown[]) => {
      const reads =
        name === 'openSync' && (typeof args[1] !== 'number' || (args[1] & fs.constants.O_CREAT) === 0);
      if (!reads) strike(name);
      return before[i]!(...args);
    };
  });
  syncBuiltinESMExports();
  return () => {
    CALLS.forEach((name, i) => {
      mutable[name] = before[i]!;
    });
    syncBuiltinESMExports();
  };
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const [, , folder, count] = process.argv;
  const { Lab } = await import('./history-lab.js');
  const lab = new Lab(folder!, fs.readFileSync(`${folder}/source.img`));
  let left = Number(count);
  watchCalls(() => {
    if (--left === 0) process.kill(process.pid, 'SIGKILL');
  });
  await lab.backup();
}
