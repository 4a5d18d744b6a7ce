/**
 * Logs are pino's JSON lines on standard error (standard output belongs to a command's answer).
 * Level: --log-level, else ASOF_LOG, else "warn".
 */
import { type Logger, pino } from 'pino';

export type { Logger };

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** A logger to the file descriptor `fd` (2 unless told otherwise); writes are synchronous, so none is lost. */
export function createLog(level: LogLevel, fd = 2): Logger {
  return pino({ level, base: { pid: process.pid } }, pino.destination({ fd, sync: true }));
}
