/**
 * The server of a mount: opens, mounts, says that it is ready, and stays until the mount has ended.
 *
 * States: opening → mounted → (a signal, or the launcher gone: unmounting) → ended. The first SIGINT, SIGTERM or
 * SIGHUP unmounts; where somebody is inside, the mount is detached and the server stays until the last one has let
 * go. A second signal ends the process at once. This process must never touch its own mount: the thread that would
 * answer is the one that waits. It therefore works in `/`.
 */
import { statSync, unlinkSync } from 'node:fs';
import { resolve } from 'node:path';
import { AsofError, EXIT } from '../errors.js';
import type { MountedHistory } from '../histories.js';
import { createLog, LOG_LEVELS, type Logger, type LogLevel } from '../log.js';
import type { DigestVerdict, DriverName, ImageOptions, Mounted } from '../service.js';
import { command } from '../shell.js';
import { counted, printable } from './columns.js';
import { EXIT_BUG } from './failure.js';
import { LOG_VARIABLE } from './launch.js';
import { Launcher } from './launcher.js';

/** Milliseconds that a forced end waits for the mount to be detached. */
const FORCED_MS = 2000;

export interface ServeRequest {
  readonly file: string;
  readonly directory: string;
  readonly image: ImageOptions;
  readonly allowOther: boolean;
  readonly driver: DriverName | undefined;
  readonly logLevel: LogLevel | undefined;
  /** The file of a layer that is kept; true for one that is thrown away. */
  readonly overlay: true | string | undefined;
  /** Compares the digests that the image carries, in the background. */
  readonly verify: boolean;
  readonly json: boolean;
}

let connected: Launcher | undefined;

/** This process is a server in the background: descriptor 3 leads to its launcher. */
export function connectLauncher(): Launcher {
  connected = new Launcher(3);
  return connected;
}

export function launcher(): Launcher | undefined {
  return connected;
}

/** Resolves when the mount has ended. Throws what opening and mounting throw. */
export async function serve(request: ServeRequest): Promise<void> {
  const stop = new Stop();
  const level = logLevel(request.logLevel);
  const mountPoint = resolve(request.directory);
  const { countAllocations, mountDriver, treeOf } = await import('../service.js');
  const { shown, image } = await openShown(request);
  const layer = typeof request.overlay === 'string' ? resolve(request.overlay) : undefined;
  process.chdir('/');
  const driver = await mountDriver(request.driver);
  if (request.overlay && !driver.can.write) {
    const { name } = driver;
    const why = `the mount driver ${name} cannot show a disk that can be written`;
    throw new AsofError('DRIVER_UNAVAILABLE', why, '--driver native');
  }
  const overlay = request.overlay ? await image?.openOverlay(layer) : undefined;
  const { allowOther } = request;
  const tree = image ? treeOf(image, overlay) : (shown as MountedHistory).tree;
  const mounted = await driver.mount(tree, { mountPoint, source: shown.path, allowOther });
  stop.force = () => endNow(mounted, EXIT.refused);
  const logFile = connected ? process.env[LOG_VARIABLE] || null : null;
  const points = shown.points.length;
  const state = {
    mountPoint,
    image: shown.path,
    points,
    driver: driver.name,
    facts: mounted.facts ?? null,
    overlay: overlay?.info() ?? null,
    pid: process.pid,
    log: logFile,
  };
  const text = request.json
    ? `${JSON.stringify(state, null, 2)}\n`
    : readyText(shown.path, mountPoint, points);
  if (connected) {
    await connected.answer({ stdout: text, stderr: '', exit: EXIT.sound });
    if (!(await connected.taken)) stop.now('the launcher has gone');
    connected.close();
  } else {
    process.stdout.write(text);
  }
  const log = createLog(level);
  process.on('uncaughtException', error => {
    log.fatal({ err: error }, 'a bug; the mount ends');
    endNow(mounted, EXIT_BUG);
  });
  log.info(state, 'mounted');
  const uncounted = (error: unknown) => log.error({ err: error }, 'the allocation cannot be counted');
  if (image) countAllocations(image).catch(uncounted);
  if (image && request.verify) {
    const unverified = (error: unknown) => log.error({ err: error }, 'the digests cannot be compared');
    image.verify().then(verdict => tell(verdict, log), unverified);
  }
  stop.asked.then(why => unmount(mounted, why, log));
  const reason = await mounted.ended;
  log.info({ mountPoint, reason }, 'ended');
  try {
    await overlay?.close();
  } catch (error) {
    log.error({ err: error }, 'not all that was written through the overlay is in its layer');
    process.exitCode = EXIT.refused;
  }
  shown.close();
  if (logFile !== null) removeEmpty(logFile);
  if (reason === 'failed') process.exitCode = EXIT.refused;
}

/** What is shown: a folder with a history, or an image and its chain. */
async function openShown({ file, image: options, overlay, verify }: ServeRequest) {
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory()) {
    if (verify) {
      const hint = command`asof verify ${file} --deep`;
      throw new AsofError('USAGE', `--verify compares the digests of one image, ${file} is a folder`, hint);
    }
    if (overlay) {
      throw new AsofError(
        'USAGE',
        `--overlay stands on one image, ${file} is a folder`,
        'name the file of a point in it',
      );
    }
    const { MountedHistory } = await import('../histories.js');
    return { shown: new MountedHistory(file, options.onDamage ?? 'error'), image: undefined };
  }
  const { OpenedImage } = await import('../service.js');
  const image = new OpenedImage(file, options);
  return { shown: image, image };
}

function tell(verdict: DigestVerdict, log: Logger): void {
  const { state } = verdict;
  if (state === 'differs' || state === 'unreadable')
    log.error(verdict, 'the disk is not what the digests of its image say');
  else if (state === 'none') log.warn(verdict, 'the image carries no digest');
  else if (state === 'matches') log.info(verdict, 'the disk is what the digests of its image say');
}

async function unmount(mounted: Mounted, why: string, log: Logger): Promise<void> {
  try {
    await mounted.unmount();
  } catch (error) {
    log.warn({ why, err: error }, 'in use: detached, and ends when the last user has let go');
    await mounted.unmount({ lazy: true });
  }
}

/** The wish to end: a signal, or a launcher that has gone. */
class Stop {
  readonly asked: Promise<string>;
  /** What a second signal does. */
  force: () => void = () => process.exit(EXIT.refused);
  #ask: (why: string) => void = () => {};
  #count = 0;

  constructor() {
    this.asked = new Promise(done => {
      this.#ask = done;
    });
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => {
        if (++this.#count > 1) this.force();
        this.#ask(signal);
      });
    }
  }

  now(why: string): void {
    this.#ask(why);
  }
}

/** Detaches and ends, however the unmount goes. */
function endNow(mounted: Mounted, status: number): void {
  const end = () => process.exit(status);
  setTimeout(end, FORCED_MS);
  mounted.unmount({ lazy: true }).then(end, end);
}

/** Throws USAGE where ASOF_LOG is no level; `--log-level` has been checked by commander. */
function logLevel(flag: LogLevel | undefined): LogLevel {
  const text = flag ?? process.env['ASOF_LOG'] ?? 'warn';
  const level = LOG_LEVELS.find(one => one === text);
  if (level) return level;
  throw new AsofError('USAGE', `ASOF_LOG is ${JSON.stringify(text)}; allowed are ${LOG_LEVELS.join(', ')}`);
}

function readyText(path: string, mountPoint: string, points: number): string {
  return `${printable(`${path} is mounted on ${mountPoint}: ${counted(points, 'point')}`)}\n`;
}

/** A log in which nothing stands tells nobody anything. */
function removeEmpty(path: string): void {
  try {
    if (statSync(path).size === 0) unlinkSync(path);
  } catch {
    // Somebody else has tidied up.
  }
}
