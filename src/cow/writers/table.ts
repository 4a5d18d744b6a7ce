/** The kinds of writers. A new one is one file and one line here. */
import { AsofError } from '../../errors.js';
import { command } from './command.js';
import { mariadb, mysql } from './mysql.js';
import { postgresql } from './postgresql.js';
import { qemu } from './qemu-agent.js';
import { systemd } from './systemd.js';
import type { WriterContext, WriterHolder, WriterKind } from './writer.js';

export const WRITERS: readonly WriterKind[] = [postgresql, mysql, mariadb, qemu, systemd, command];

/** What a user says of a writer: its kind, and settings. */
export interface WriterRequest {
  readonly kind: string;
  readonly settings?: Readonly<Record<string, string>>;
}

/** By its name, or another name of it. */
export function writerNamed(kind: string): WriterKind | undefined {
  return WRITERS.find(one => one.name === kind || one.aliases?.includes(kind));
}

/** Throws USAGE, with what is allowed. */
export function makeWriter({ kind, settings = {} }: WriterRequest, context: WriterContext): WriterHolder {
  const known = writerNamed(kind);
  if (!known) {
    const names = WRITERS.flatMap(one => [one.name, ...(one.aliases ?? [])]).join(', ');
    throw new AsofError('USAGE', `there is no writer ${JSON.stringify(kind)}`, `there are ${names}`);
  }
  for (const name of Object.keys(settings)) {
    if (Object.hasOwn(known.settings, name)) continue;
    const names = Object.keys(known.settings).join(', ');
    throw new AsofError(
      'USAGE',
      `the writer ${kind} has no setting ${JSON.stringify(name)}`,
      `it has ${names}`,
    );
  }
  return known.make(settings, context);
}
