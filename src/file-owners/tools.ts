/** Programs of others that know a file system: what they print, and in words why there is nothing. */
import { execFile } from 'node:child_process';

/** Milliseconds, and bytes of an answer. */
const LONGEST = 300_000;
const MOST = 2 ** 29;

/** Throws an Error whose message can be shown. */
export function ask(program: string, args: readonly string[], signal?: AbortSignal): Promise<string> {
  return new Promise((done, failed) => {
    const options = {
      timeout: LONGEST,
      maxBuffer: MOST,
      signal,
      // Debian keeps them where only an administrator looks.
      env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C' },
    };
    execFile(program, [...args], options, (error, stdout, stderr) => {
      if (!error) return done(stdout);
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
        return failed(new Error(`${program} is not installed`));
      }
      const said = stderr.trim().split('\n').at(-1) || error.message;
      failed(new Error(`${program} refused: ${said}`));
    });
  });
}
