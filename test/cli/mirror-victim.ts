/**
 * A mirror that is killed at its n-th step: a call that changes something on disk, or a step that it names itself.
 *
 * As a program: node mirror-victim.js SOURCE TARGET STATE N kills itself before the n-th; it ends with 0 where there were fewer.
 */
import { AsofError } from '../../src/errors.js';
import { type MirrorOptions, type MirrorSource, mirror, openPoint, statusOf } from '../../src/mirror.js';
import { watchCalls } from '../image/backup-victim.js';

export const OPTIONS: Omit<MirrorOptions, 'state'> = {
  method: 'auto',
  guard: 1,
  acceptChanges: false,
  force: false,
  dryRun: false,
  verify: true,
  rate: 0,
  signal: undefined,
  progress: undefined,
};

/** A raw file, as the point of a volume. */
export function sourceOf(path: string, more: Partial<MirrorSource> = {}): MirrorSource {
  return {
    point: openPoint(path, { format: 'raw' }),
    volume: { id: 'the-volume', name: 'vol' },
    time: new Date(),
    consistency: 'crash',
    snapshot: null,
    files: [],
    tracker: undefined,
    changed: undefined,
    ...more,
  };
}

/** One run; `strike` is called before each step. */
export async function run(
  source: string,
  target: string,
  state: string,
  strike: (step: string) => void,
  more: Partial<MirrorOptions> = {},
): Promise<void> {
  const from = sourceOf(source);
  const unwatch = watchCalls(strike);
  try {
    await mirror(from, target, { ...OPTIONS, state, step: strike, ...more });
  } finally {
    unwatch();
    from.point.close();
  }
}

/** How a target begins that is being updated: docs/formats.md. */
export const NOTICE = 'asof mirror: this disk is being updated, and is not whole\n';

/** What is told of a target, or the code of why nothing is. */
export function stateOf(target: string, state: string): string {
  try {
    return statusOf(target, state).state;
  } catch (error) {
    if (error instanceof AsofError && ['MIRROR_UNKNOWN', 'NOT_FOUND'].includes(error.code)) return error.code;
    throw error;
  }
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const [, , source, target, state, count] = process.argv;
  let left = Number(count);
  await run(source!, target!, state!, () => {
    if (--left === 0) process.kill(process.pid, 'SIGKILL');
  });
}
