/**
 * The outline of a disk: its table of partitions, and what lies at its start and in each of them. A source that has lost any
 * of it since the last run looks destroyed, and must not be mirrored over the one copy that still has it.
 */
import { entriesOf, hasBootMark, PROTECTIVE } from './block/mbr.js';
import type { Partitioned } from './block/partitions.js';
import { surveyPartitions } from './block/partitions.js';
import { markOf } from './block/signature.js';

export interface Outline {
  /** `unsound`: there is something wrong with it. */
  readonly table: 'gpt' | 'mbr' | 'unsound' | null;
  /** The disk itself, and its partitions, where they hold what has a name. */
  readonly marks: readonly OutlineMark[];
}

export interface OutlineMark {
  /** Bytes. */
  readonly start: number;
  readonly name: string;
  readonly id: string;
}

/** Partitions that are looked at. */
const MOST = 128;

/** What may come and go: swap is made anew, and bears another mark while a machine sleeps. */
const FLEETING = ['swap'];

export async function outlineOf(disk: Partitioned): Promise<Outline> {
  const { table: found, defects } = await surveyPartitions(disk);
  const kind = found?.kind === 'hybrid' ? 'gpt' : (found?.kind ?? null);
  // A GPT that no MBR guards any more is none.
  const table = defects.length > 0 && (found || (await saysGpt(disk))) ? 'unsound' : kind;
  const starts = [0, ...(found?.partitions.slice(0, MOST).map(({ start }) => start) ?? [])];
  const marks: OutlineMark[] = [];
  for (const start of starts) {
    const found = await markOf((offset, length) => disk.read(start + offset, length));
    if (found) marks.push({ start, ...found });
  }
  return { table, marks };
}

async function saysGpt(disk: Partitioned): Promise<boolean> {
  const first = await disk.read(0, 512);
  return hasBootMark(first) && entriesOf(first).some(({ type }) => type === PROTECTIVE);
}

/** In words the first thing that `then` had and `now` has lost; undefined where nothing is missing. */
export function lost(then: Outline, now: Outline): string | undefined {
  if (then.table !== null && then.table !== 'unsound' && now.table !== then.table) {
    const had = `its ${then.table.toUpperCase()} table of partitions`;
    if (now.table === null) return `${had} is gone`;
    return now.table === 'unsound' ? `${had} is damaged` : `${had} is one of ${now.table.toUpperCase()} now`;
  }
  for (const { start, name, id } of then.marks) {
    if (FLEETING.includes(name)) continue;
    const what = name === 'gpt' || name === 'mbr' ? `the ${name.toUpperCase()}` : `the ${name}`;
    const there = now.marks.find(one => one.start === start);
    if (there?.name === name && there.id === id) continue;
    const where = `${what} at byte ${start}`;
    if (!there) return `${where} is gone`;
    return there.name === name
      ? `${where} is another one: its id was ${id}, and is ${there.id}`
      : `${where} is gone: there is ${there.name}`;
  }
  return undefined;
}
