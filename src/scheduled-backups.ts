/**
 * Backups that the daemon runs by itself: a process of its own for each, so that nothing of it is on the daemon's thread.
 * The daemon takes the moment (a lease) and ends it; the process reads it and writes the history.
 *
 * The protocol: one line of JSON on its standard input, which stays open for as long as the daemon wants it to go on: when it
 * is closed, also by the daemon's death, the process takes away what it has begun and ends. On its standard output a line of
 * JSON each: `copied` when the snapshots are needed no longer, `done` or `failed` at the end.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout } from 'node:timers/promises';
import type { BackupPoint, Schedule, ScheduledBackup } from './cow/schedule.js';
import type { Done } from './cow/scheduler.js';
import { AsofError, ERROR_CODES, type ErrorCode } from './errors.js';
import type { LeaseInfo, Leases } from './leases.js';
import type { Logger } from './log.js';
import { command } from './shell.js';

const SCRIPT = new URL('cli/scheduled-backup.js', import.meta.url).pathname;

/** Milliseconds for which a process that was killed is waited for: one that hangs in the kernel must not hold up a stop. */
const KILLED_MS = 5000;

/** Of standard error, what is told where it ends without a word. */
const LAST_WORDS = 2000;

export interface BackupOrder {
  /** The state directory. */
  readonly state: string;
  readonly lease: LeaseInfo;
  readonly backup: ScheduledBackup;
}

/** Nothing but to write down, in the history, why there was no moment to back up. */
export interface FailureOrder {
  readonly to: string;
  readonly volumes: readonly string[];
  readonly failed: { readonly code: string; readonly message: string; readonly hint: string };
}

export type Order = BackupOrder | FailureOrder;

export type Said =
  | { readonly said: 'copied' }
  | { readonly said: 'done'; readonly points: readonly BackupPoint[]; readonly warnings: readonly string[] }
  | {
      readonly said: 'failed';
      readonly code: string;
      readonly message: string;
      readonly hint: string;
    };

export class ScheduledBackups {
  readonly #leases: Leases;
  readonly #state: string;
  readonly #log: Logger;
  readonly #children = new Map<ChildProcess, Promise<unknown>>();
  #stopping = false;

  constructor(leases: Leases, state: string, log: Logger) {
    this.#leases = leases;
    this.#state = state;
    this.#log = log;
  }

  /** Throws what taking the moment throws, and why the backup failed; then its snapshots are gone. */
  async run(schedule: Schedule & { readonly backup: ScheduledBackup }, id: string): Promise<Done> {
    const { volumes, providers, request, backup } = schedule;
    this.#refuse();
    const lease = await this.#leases.begin(volumes, providers, { ...request, job: id }).catch(async error => {
      if (error instanceof AsofError && !this.#stopping) {
        const { code, message, hint } = error;
        const order = { to: backup.to, volumes, failed: { code, message, hint } };
        await this.#child(order, () => {}).catch(() => {});
      }
      throw error;
    });
    let made: Extract<Said, { said: 'done' }>;
    try {
      this.#refuse();
      made = await this.#child({ state: this.#state, lease: this.#leases.told(lease), backup }, lease.end);
    } catch (error) {
      lease.end();
      await lease.over.catch(() => []);
      throw error;
    }
    lease.end();
    const marks = await lease.over;
    return { groups: [], marks, points: made.points, warnings: made.warnings };
  }

  /** Ends those under way, and lets none begin; `force`: one that hangs is left behind. */
  async stop({ force }: { readonly force: boolean }): Promise<void> {
    this.#stopping = true;
    const all = [...this.#children];
    if (all.length === 0) return;
    for (const [child] of all) {
      child.stdin?.end();
      if (force) child.kill('SIGKILL');
    }
    const over = Promise.allSettled(all.map(([, ended]) => ended));
    await (force ? Promise.race([over, setTimeout(KILLED_MS)]) : over);
  }

  #refuse(): void {
    if (this.#stopping) throw new AsofError('DAEMON_MISSING', 'the daemon is being stopped');
  }

  #child(order: Order, copied: () => void): Promise<Extract<Said, { said: 'done' }>> {
    const child = spawn(process.execPath, [SCRIPT], { stdio: ['pipe', 'pipe', 'pipe'] });
    const ended = new Promise<Extract<Said, { said: 'done' }>>((done, failed) => {
      let last: Said | undefined;
      let text = '';
      let errors = '';
      child.stdout.setEncoding('utf8').on('data', (piece: string) => {
        const lines = `${text}${piece}`.split('\n');
        text = lines.pop()!;
        for (const line of lines) {
          last = JSON.parse(line) as Said;
          if (last.said === 'copied') copied();
        }
      });
      child.stderr.setEncoding('utf8').on('data', (piece: string) => {
        errors = `${errors}${piece}`.slice(-LAST_WORDS);
      });
      // A process that is gone does not read.
      child.stdin.on('error', () => {});
      child.on('error', failed);
      child.on('close', (code, signal) => {
        if (errors !== '') this.#log.warn({ said: errors }, 'a backup said');
        if (last?.said === 'done') done(last);
        else if (last?.said === 'failed') failed(asError(last));
        else {
          const how = signal ? `was killed by ${signal}` : `ended with status ${code}`;
          const hint = 'failed' in order ? '' : command`asof history ${order.backup.to}`;
          failed(new AsofError('BACKUP_FAILED', `the process of the backup ${how}`, hint));
        }
      });
    });
    this.#children.set(child, ended);
    ended.catch(() => {}).finally(() => this.#children.delete(child));
    child.stdin.write(`${JSON.stringify(order)}\n`);
    return ended;
  }
}

function asError({ code, message, hint }: Extract<Said, { said: 'failed' }>): Error {
  return ERROR_CODES.some(one => one === code)
    ? new AsofError(code as ErrorCode, message, hint)
    : new Error(`in the backup: ${message}`);
}
