/**
 * The one place where tests find the programs that they compare with, and learn what this host lets them do.
 *
 * A missing peer is a visible skip for a user, who need not have all of them, and a failure in CI, which must.
 */
import { execFile } from 'node:child_process';
import { accessSync, constants, existsSync, readdirSync, readFileSync } from 'node:fs';
import { promisify } from 'node:util';

interface Packages {
  findProgram(name: string): string | undefined;
  packageOf(name: string): string;
}

// The table of packages is JavaScript, because set-up needs it before there is a compiler.
const packages = (await import(new URL('../../scripts/packages.js', import.meta.url).href)) as Packages;

/** What a test may need of the host beside programs. */
export type Facility = 'root' | 'fuse' | 'loop';

const FACILITIES: Record<Facility, () => string | undefined> = {
  root: () => (process.getuid?.() === 0 ? undefined : 'root'),
  fuse: () => openable('/dev/fuse'),
  loop: () => openable('/dev/loop-control'),
};

/**
 * For `skip` of a test: false where everything is there, else the reason. Throws instead where CI is set.
 */
export function missing(programs: readonly string[], facilities: readonly Facility[] = []): string | false {
  const absent = programs.filter(name => !packages.findProgram(name));
  const reasons = absent.map(name => `${name} (Debian package ${packages.packageOf(name)})`);
  for (const facility of facilities) {
    const reason = FACILITIES[facility]();
    if (reason) reasons.push(reason);
  }
  if (reasons.length === 0) return false;
  const text = `needs ${reasons.join(', ')}`;
  if (process.env['CI']) throw new Error(`${text}, and CI must have it`);
  return text;
}

export interface Ran {
  readonly code: number;
  readonly stdout: Buffer;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly input?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs a program to its end, however that is. Ten minutes bound it: a hung peer must not hang the suite. */
export async function attempt(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Ran> {
  const path = packages.findProgram(program) ?? program;
  const running = promisify(execFile)(path, [...args], {
    cwd: options.cwd,
    env: { ...process.env, LC_ALL: 'C', ...options.env },
    encoding: 'buffer',
    maxBuffer: 2 ** 30,
    timeout: 600_000,
    killSignal: 'SIGKILL',
  });
  running.child.stdin?.on('error', () => {}); // It may end before it has read all.
  running.child.stdin?.end(options.input ?? '');
  try {
    const { stdout, stderr } = await running;
    return { code: 0, stdout, stderr: stderr.toString() };
  } catch (error) {
    const failed = error as { code?: unknown; stdout?: Buffer; stderr?: Buffer; message?: string };
    if (typeof failed.code !== 'number') throw error;
    return {
      code: failed.code,
      stdout: failed.stdout ?? Buffer.alloc(0),
      stderr: failed.stderr?.toString() ?? '',
    };
  }
}

/** Runs a program that must succeed; its standard output. */
export async function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const { code, stdout, stderr } = await attempt(program, args, options);
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}:\n${stderr}${stdout}`);
  return stdout.toString();
}

function openable(path: string): string | undefined {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return undefined;
  } catch {
    return path;
  }
}

/**
 * Detaches the loop devices that still stand on `path`. By its number a device could be another test's by now: the one
 * that was detached is the first that the next one gets.
 */
export async function detachLoops(path: string): Promise<void> {
  for (const name of readdirSync('/sys/block')) {
    const backing = `/sys/block/${name}/loop/backing_file`;
    if (!name.startsWith('loop') || !existsSync(backing)) continue;
    if (readFileSync(backing, 'utf8').trim() === path) await attempt('losetup', ['-d', `/dev/${name}`]);
  }
}
