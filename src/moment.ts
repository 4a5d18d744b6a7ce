/**
 * Moments as people write them and as folders are named: UTC, whole seconds. Points of an image and snapshots of a
 * volume are named alike.
 */

/** The time as the name of a folder: UTC, whole seconds, no colon. */
export function momentOf(time: Date): string {
  return `${time.toISOString().slice(0, -5).replaceAll(':', '-')}Z`;
}

/** A time as a user or the name of a moment writes it; UTC where no zone is given. */
export function parseTime(text: string): Date | undefined {
  const colons = text
    .replace(/^(\d{4}-\d\d-\d\d) (?=\d)/, '$1T')
    .replace(
      /^(\d{4}-\d\d-\d\dT\d\d)-(\d\d)(?:-(\d\d))?/,
      (_all, hour, minute, second) => `${hour}:${minute}:${second ?? '00'}`,
    );
  const zoned = /T/.test(colons) && !/(?:Z|[+-]\d\d:?\d\d)$/i.test(colons) ? `${colons}Z` : colons;
  if (!/^\d{4}-\d\d-\d\d/.test(zoned)) return undefined;
  const time = new Date(zoned);
  return Number.isNaN(time.getTime()) ? undefined : time;
}

/**
 * The last millisecond of what `text` names: a day, a minute, a second cover all of it, so that `@2026-11-20` is the end of
 * that day, and `@` with the name of a folder is that folder. Whole seconds since the epoch are a time too.
 */
export function endOfTime(text: string): Date | undefined {
  const time = /^\d{1,11}$/.test(text) ? new Date(Number(text) * 1000) : parseTime(text);
  if (!time || Number.isNaN(time.getTime())) return undefined;
  return new Date(time.getTime() + covered(text) - 1);
}

/** Milliseconds that `text` covers. */
function covered(text: string): number {
  const local = text.replace(/(?:Z|[+-]\d\d:?\d\d)$/i, '');
  if (/^\d{4}-\d\d-\d\d$/.test(text)) return 86_400_000;
  if (/[T ]\d\d[:-]\d\d$/.test(local)) return 60_000;
  return local.includes('.') ? 1 : 1000;
}
