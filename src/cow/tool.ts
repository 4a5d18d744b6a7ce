/**
 * Programs of the administrator that take snapshots for us (lvm2, btrfs-progs): no shell, in the C locale, within a time.
 *
 * They are asked to end (SIGTERM), never killed: one that dies between suspending a device and resuming it leaves the
 * device suspended. Whoever calls therefore waits until it has ended, however late that is.
 */
import { spawn } from 'node:child_process';
import { delimiter } from 'node:path';

/** Bytes of an answer; more is an error. */
const MOST = 16 * 2 ** 20;

/** Where administrators' programs lie, also where the daemon's PATH does not say so. */
const SBIN = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** Its standard output. Rejects with what it said, or why it did not come to that. */
export function runTool(program: string, args: readonly string[], timeoutMs: number): Promise<string> {
  const path = [process.env['PATH'] ?? '', ...SBIN].join(delimiter);
  return new Promise((done, failed) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: '/',
      // Descriptors of ours are closed on exec; lvm2 would tell of others, and of each.
      env: { ...process.env, PATH: path, LC_ALL: 'C', LVM_SUPPRESS_FD_WARNINGS: '1' },
    });
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGTERM');
    }, timeoutMs);
    const output = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
    let bytes = 0;
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].on('data', (piece: Buffer) => {
        bytes += piece.length;
        if (bytes <= MOST) output[name].push(piece);
      });
    }
    const end = (why: string) => {
      clearTimeout(timer);
      if (why === '') done(Buffer.concat(output.stdout).toString());
      else failed(new Error(`${program} ${args[0] ?? ''}: ${why}`));
    };
    child.on('error', error => {
      const absent = (error as NodeJS.ErrnoException).code === 'ENOENT';
      end(absent ? 'there is no such program' : error.message);
    });
    child.on('close', (code, signal) => {
      const said = Buffer.concat(output.stderr)
        .toString()
        .trim()
        .split('\n')
        .map(line => line.trim());
      if (late) end(`it did not end within ${timeoutMs / 1000} s`);
      else if (code !== 0)
        end(said.filter(line => line !== '').join('; ') || `it ended with ${signal ?? code}`);
      else if (bytes > MOST) end(`it said more than ${MOST} bytes`);
      else end('');
    });
  });
}
