/**
 * Logs are pino's JSON lines on standard error (standard output belongs to a command's answer).
 * Level: --log-level, else ASOF_LOG, else "warn".
 */
import { createRequire } from 'node:module';
import type { Logger } from 'pino';

export type { Logger };

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/**
 * A logger to the file descriptor `fd` (2 unless told otherwise); writes are synchronous, so none is lost.
 * pino is loaded here and not before: it would be a tenth of the time that a mount takes.
 */
export function createLog(level: LogLevel, fd = 2): Logger {
  const { pino } = createRequire(import.meta.url)('pino') as typeof import('pino');
  return pino({ level, base: { pid: process.pid } }, pino.destination({ fd, sync: true }));
}
