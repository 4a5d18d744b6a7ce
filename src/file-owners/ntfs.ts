/**
 * NTFS: ntfscluster(8) reads the MFT once and tells the runs of every attribute. System files are records below 24, of which
 * $LogFile is the journal. What no attribute has is free.
 *
 * Its output is lines, and names may hold line breaks, by which a name could pass for another line. Names are therefore shown as
 * ntfscluster has them, which is no place to trust, and a record's bytes are counted by its number.
 */
import { open } from 'node:fs/promises';
import type { Largest } from './largest.js';
import type { Place } from './owners.js';
import type { ChangedRuns } from './runs.js';
import { ask } from './tools.js';

const LOG_FILE = 2;
const FIRST_USER = 24;
/** $Extend and what is in it ($Quota, $ObjId, $Reparse) have records of users, and no bytes worth a name. */
const SYSTEM_PATH = /^\/\$Extend\//;

export async function ntfsOwners(
  { device, signal }: Place,
  changed: ChangedRuns,
  largest: Largest,
  notes: string[],
): Promise<{ readonly journal: number | null; readonly free: number | null }> {
  let text: string;
  let cluster: number;
  try {
    cluster = await clusterOf(device);
    text = await ask('ntfscluster', ['-f', '-v', '-c', `0-${2 ** 40}`, device], signal);
  } catch (error) {
    if (signal?.aborted) throw error;
    notes.push(`which file a sector belongs to is not known: ${(error as Error).message}`);
    return { journal: null, free: null };
  }
  let journal = 0;
  let system = 0;
  let bytes = 0;
  const files = new Map<number, { path: string; bytes: number }>();
  for (const line of text.split('\n')) {
    // "\t\t<VCN>\t<first>-<last> (<count>)" of an attribute, whose name follows: "Inode 67 /c/$DATA".
    const [, first, last] = /^\t\t\d+\t(\d+)-(\d+) \(\d+\)$/.exec(line) ?? [];
    if (first !== undefined) {
      bytes += changed.within(Number(first) * cluster, (Number(last) - Number(first) + 1) * cluster);
      continue;
    }
    const [, number, path] = /^Inode (\d+) (\/.*)$/.exec(line) ?? [];
    if (number === undefined) continue;
    const inode = Number(number);
    if (inode === LOG_FILE) journal += bytes;
    else if (inode < FIRST_USER || SYSTEM_PATH.test(path!)) system += bytes;
    else if (bytes > 0) {
      const file = files.get(inode);
      if (file) file.bytes += bytes;
      else files.set(inode, { path: nameOf(path!), bytes });
    }
    bytes = 0;
  }
  for (const { path, bytes: changedBytes } of files.values()) largest.add(path, changedBytes);
  const free = Math.max(0, changed.bytes - journal - system - bytes - largest.bytes);
  return { journal, free };
}

/** Without the attribute at its end; streams keep their names: `/d/a:stream`. */
function nameOf(path: string): string {
  const [, file, attribute, stream] = /^(.*)\/(\$[A-Z_]+)(?:\((.*)\))?$/.exec(path) ?? [];
  if (file === undefined) return path;
  if (attribute === '$DATA') return stream === undefined ? file : `${file}:${stream}`;
  return stream === '$I30' ? `${file}/` : file;
}

/** Bytes of a cluster, by the boot sector. */
async function clusterOf(device: string): Promise<number> {
  const file = await open(device, 'r');
  try {
    const { buffer } = await file.read(Buffer.alloc(512), 0, 512, 0);
    const sectors = buffer.readInt8(13);
    const size = buffer.readUInt16LE(11) * (sectors < 0 ? 2 ** -sectors : sectors);
    if (buffer.toString('latin1', 3, 7) === 'NTFS' && size > 0) return size;
    throw new Error('its boot sector makes no sense');
  } finally {
    await file.close();
  }
}
