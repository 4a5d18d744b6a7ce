/**
 * The daemon. States: opening → ready → (a signal, or the mount gone: stopping) → ended.
 *
 * A stop is clean: jobs under way end, the mount ends, volumes are closed, the origin's identity is recorded. While somebody is in the mount,
 * stopping waits and says for whom: a live device may carry a file system whose last writes are still to come. A second
 * signal does not wait.
 */
import { existsSync, unlinkSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { AsofError } from '../errors.js';
import type { Logger } from '../log.js';
import { type LiveOptions, LiveVolumes, notifyManager } from '../volumes.js';
import { listen } from './http.js';

/** Milliseconds between two attempts to unmount. */
const RETRY_MS = 500;

export interface Ready {
  readonly pid: number;
  readonly state: string;
  readonly socket: string;
  readonly mount: string | null;
  readonly driver: string | null;
  readonly volumes: number;
}

/** Resolves when the daemon has stopped cleanly. Throws what opening throws, and MOUNT_FAILED where the mount has failed. */
export async function runDaemon(options: LiveOptions, ready: (state: Ready) => Promise<void>): Promise<void> {
  const { log } = options;
  const stop = new Stop();
  const live = await LiveVolumes.open(options);
  let lost: string | undefined;
  try {
    const app = await listen(live, live.state.socket, log);
    try {
      const state = {
        pid: process.pid,
        state: live.state.path,
        socket: live.state.socket,
        mount: live.mounted?.mountPoint ?? null,
        driver: live.driver ?? null,
        volumes: live.volumes.list().length,
      };
      await ready(state);
      // What a schedule stops must not meet what an interrupted job still has to start again.
      live.volumes.recover().then(() => live.schedules.start());
      notifyManager('READY=1');
      const { pid: _, ...told } = state;
      log.info(told, 'ready');
      const reason = await Promise.race([stop.asked, live.lost().then(how => ({ lost: how }))]);
      if (typeof reason !== 'string') lost = reason.lost;
      log.info({ reason }, 'stopping');
      notifyManager('STOPPING=1');
      live.stop();
      await closeVolumes(live, stop, log);
    } finally {
      await app.close();
      if (existsSync(live.state.socket)) unlinkSync(live.state.socket);
    }
  } finally {
    await live.close({ force: true });
  }
  log.info('ended');
  if (lost === 'failed')
    throw new AsofError('MOUNT_FAILED', 'the mount has failed; the volumes were closed cleanly');
}

async function closeVolumes(live: LiveVolumes, stop: Stop, log: Logger): Promise<void> {
  for (let told = false; ; ) {
    try {
      await live.close({ force: stop.count > 1 });
      return;
    } catch (error) {
      if (!(error instanceof AsofError && error.code === 'MOUNT_BUSY')) throw error;
      if (!told) {
        const { message, hint } = error;
        log.warn({ why: message, hint }, 'in use: stopping waits; a second signal does not');
      }
      told = true;
      await setTimeout(RETRY_MS);
    }
  }
}

/** Signals, counted. */
class Stop {
  readonly asked: Promise<string>;
  count = 0;

  constructor() {
    this.asked = new Promise(done => {
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
        process.on(signal, () => {
          this.count++;
          done(signal);
        });
      }
    });
  }
}
