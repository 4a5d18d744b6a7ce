/** Programs of the system that mount and unmount: run to their end, and what they said where they failed. */
import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { AsofError } from '../errors.js';

const FOLDERS = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/bin', '/bin'];

/** The path of a program; undefined where there is none. */
export function findTool(name: string): string | undefined {
  for (const folder of [...(process.env['PATH'] ?? '').split(delimiter), ...FOLDERS]) {
    if (!folder) continue;
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // The next one.
    }
  }
  return undefined;
}

/** What it prints. Throws MOUNT_FAILED, with the first line of what it said. */
export function runTool(program: string, args: readonly string[]): Promise<string> {
  return new Promise((done, failed) => {
    const env = { ...process.env, LC_ALL: 'C' };
    execFile(findTool(program) ?? program, [...args], { env }, (error, stdout, stderr) => {
      if (!error) return done(stdout);
      const said = stderr.trim().split('\n', 1)[0] || error.message.split('\n', 1)[0];
      failed(new AsofError('MOUNT_FAILED', `${program} ${args.join(' ')}: ${said}`, '', { cause: error }));
    });
  });
}
