/** The files to which changed sectors belong: of a volume since a moment, of a point of a history, of two points. */
import { existsSync } from 'node:fs';
import type { ChangeOwners, NamedPoint, PartOwners, Run } from '../activity-files.js';
import { AsofError } from '../errors.js';
import type { VolumeInfo } from '../volumes.js';
import { Client } from './client.js';
import { columns, counted, printable } from './columns.js';
import { write, writeJson } from './output.js';
import { humanSize } from './size.js';
import type { StateFlags } from './state.js';

/** Files that are named unless it is said how many. */
export const TOP = 20;

const MOST = 100_000;

export interface OwnerFlags extends StateFlags {
  readonly top: number;
  readonly partition?: number;
  readonly replay: boolean;
}

export const TOP_HELP = `how many files are named of each file system (${TOP})`;

export function parseTop(text: string): number {
  const number = Number(text);
  if (/^\d{1,6}$/.test(text) && number > 0 && number <= MOST) return number;
  throw new AsofError('USAGE', `--top ${JSON.stringify(text)} is no number from 1 to ${MOST}`);
}

/** Whether it is a point and no volume, whose names have none of this. */
export function isPoint(text: string): boolean {
  return text.includes('/') || text.includes('@') || existsSync(text);
}

/** Ctrl-C takes everything down first. */
export function stopping(): AbortSignal {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort());
  return stop.signal;
}

export async function pointActivity(text: string, flags: OwnerFlags): Promise<void> {
  const signal = stopping();
  const { openPoint, ownersOfRuns, storedBy } = await import('../activity-files.js');
  const point = openPoint(text);
  try {
    const { runs, base, bytes } = await storedBy(point);
    const owners = await ownersOfRuns(() => openPoint(text), runs, { ...flags, signal });
    const what = base === null ? 'a full image, all that holds anything' : `sectors unlike those of ${base}`;
    await show(`${point.label}: ${what}; ${humanSize(bytes)} stored`, owners, flags, {
      point: point.id,
      base,
      stored: bytes,
    });
  } finally {
    point.close();
  }
}

interface Snapshot {
  readonly id: string;
  readonly moment: string;
  readonly state: string;
  readonly provider: string;
}

interface Changed {
  readonly method: string;
  readonly exact: boolean;
  readonly why: string;
  readonly extents: readonly { readonly start: number; readonly length: number }[];
}

/** What was written since a snapshot (the newest, unless said), by a snapshot of now that is deleted again. */
export async function volumeActivity(
  name: string,
  flags: OwnerFlags & { readonly since?: string },
): Promise<void> {
  const signal = stopping();
  const { openPoint, ownersOfRuns } = await import('../activity-files.js');
  const client = new Client(flags);
  const path = `/volumes/${encodeURIComponent(name)}`;
  const volume = await client.ask<VolumeInfo>('GET', path);
  const { mount } = await client.ask<{ mount: string | null }>('GET', '/daemon');
  if (mount === null) {
    const hint = 'start it with --mount DIR';
    throw new AsofError('MOUNT_POINT', 'the daemon shows no disks, so that no file can be looked at', hint);
  }
  const all = await client.ask<Snapshot[]>(
    'GET',
    `/snapshots?${new URLSearchParams({ volume: volume.name })}`,
  );
  const newest = all.findLast(({ state, provider }) => state === 'live' && provider === 'cow');
  const since = flags.since ?? newest?.id ?? 'added';
  const before = all.find(({ id, state }) => id === since && state === 'live');
  const [now] = await client.ask<Snapshot[]>('POST', '/snapshots', {
    volumes: [volume.name],
    providers: ['cow'],
  });
  const open = ({ moment }: Snapshot) =>
    openPoint(`${mount}/volumes/${volume.name}/${moment}/disk`, { format: 'raw' });
  try {
    const query = new URLSearchParams({ since, until: now!.id });
    const changed = await client.ask<Changed>('GET', `${path}/changes?${query}`);
    const chunks = changed.extents.map(({ start, length }): Run => [start, length]);
    const runs = before ? await exactly(open(before), open(now!), chunks) : chunks;
    const owners = await ownersOfRuns(() => open(now!), runs, { ...flags, format: 'raw', signal });
    const how = before ? 'by sectors' : `by chunks of ${humanSize(volume.chunkSize)}, which files may share`;
    await show(`${volume.name} since ${since}, ${how}: ${changed.why}`, owners, flags, {
      volume: volume.name,
      since,
      unit: before ? volume.sectorSize : volume.chunkSize,
      method: changed.method,
      why: changed.why,
    });
  } finally {
    await client.ask('DELETE', `/snapshots/${now!.id}`);
  }
}

async function exactly(before: NamedPoint, now: NamedPoint, chunks: readonly Run[]): Promise<Run[]> {
  const { unlikeWithin } = await import('../activity-files.js');
  try {
    return await unlikeWithin(before, now, chunks);
  } finally {
    before.close();
    now.close();
  }
}

/** The answer, for people or as one document that begins with `facts`. */
export async function show(
  title: string,
  owners: ChangeOwners,
  flags: { readonly json?: boolean },
  facts: object,
): Promise<void> {
  if (flags.json) await writeJson({ ...facts, ...owners });
  else await write(forPeople(title, owners));
}

function forPeople(title: string, { changed, outside, parts }: ChangeOwners): string {
  const lines = [`${title}\n`.replaceAll('\n', ' ').trimEnd(), `${humanSize(changed)} changed`];
  if (outside > 0) lines.push(`${humanSize(outside)} of it in no partition`);
  const text = lines.map(line => `${printable(line)}\n`).join('');
  return text + parts.map(partText).join('');
}

function partText(part: PartOwners): string {
  const { partition, fileSystem, changed, files, fileCount, fileBytes, replay } = part;
  const name = partition === null ? '' : `partition ${partition}, `;
  const lines = [`${name}${fileSystem ?? 'no known file system'}: ${humanSize(changed)} changed`];
  if (replay?.replayed) lines.push(replay.why);
  const rest = fileCount - files.length;
  const rows: [string, string][] = files.map(({ path, bytes }) => [humanSize(bytes), path]);
  if (rest > 0) {
    const named = files.reduce((sum, { bytes }) => sum + bytes, 0);
    rows.push([humanSize(fileBytes - named), `(${counted(rest, 'more file')})`]);
  }
  for (const what of ['journal', 'metadata', 'free'] as const) {
    const bytes = part[what];
    if (bytes !== null && bytes > 0) rows.push([humanSize(bytes), `(${SAID[what]})`]);
  }
  const table = rows.length > 0 ? columns(['CHANGED', 'OF'], ['>', '<'], rows) : '';
  const said = (text: string) => `${printable(text)}\n`;
  return `\n${lines.map(said).join('')}${table}${part.notes.map(note => said(`note: ${note}`)).join('')}`;
}

const SAID = {
  journal: 'journal',
  metadata: 'metadata of the file system',
  free: 'free: removed files, or never in use',
} as const;
