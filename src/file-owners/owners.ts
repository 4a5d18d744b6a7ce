/**
 * To whom the changed bytes of a file system belong. Each kind of file system is asked in the way that knows it; a new one is a
 * file here and a line in the table. What nobody is asked about is said in `notes`, and never guessed.
 */
import { blockOwners } from './blocks.js';
import { extFree, extJournal } from './ext.js';
import { Largest, type OwnedBytes } from './largest.js';
import { ntfsOwners } from './ntfs.js';
import type { ChangedRuns, Run } from './runs.js';
import { xfsFree, xfsLog } from './xfs.js';

/** Where the file system can be looked at: mounted at `root`, from the block device `device`. Nobody writes to it. */
export interface Place {
  readonly root: string;
  readonly device: string;
  readonly type: string;
  readonly signal?: AbortSignal | undefined;
}

export interface Owners {
  /** Bytes that changed, of which the others are parts. */
  readonly changed: number;
  /** The files and folders with most of them, the largest first; and how many have any, with how many bytes. */
  readonly files: readonly OwnedBytes[];
  readonly fileCount: number;
  readonly fileBytes: number;
  /** null where it is not told apart from metadata. */
  readonly journal: number | null;
  /** In use by nobody: files that were removed, or never were; null where it is not told apart from metadata. */
  readonly free: number | null;
  /** The rest: what the file system keeps for itself. */
  readonly metadata: number;
  /** What could not be told, and why. */
  readonly notes: readonly string[];
}

interface Kind {
  readonly journal?: (place: Place) => Promise<readonly Run[]>;
  readonly free?: (place: Place) => Promise<readonly Run[]>;
}

const KINDS: Readonly<Record<string, Kind>> = {
  ext4: { journal: extJournal, free: extFree },
  xfs: { journal: xfsLog, free: xfsFree },
};

/** Throws what cannot be had without which nothing is known; a missing tool is a note. */
export async function ownersOf(place: Place, changed: ChangedRuns, top: number): Promise<Owners> {
  const largest = new Largest(top);
  const notes: string[] = [];
  if (changed.bytes === 0) return told(changed, largest, 0, 0, notes);
  if (place.type === 'ntfs') {
    const { journal, free } = await ntfsOwners(place, changed, largest, notes);
    return told(changed, largest, journal, free, notes);
  }
  if (place.type === 'btrfs') {
    notes.push('btrfs: which file a sector belongs to cannot be told');
    return told(changed, largest, null, null, notes);
  }
  await blockOwners(place, changed, largest, notes);
  const kind = KINDS[place.type] ?? {};
  const within = async (what: string, ask: Kind['free']) => {
    if (!ask) {
      notes.push(`the ${what} of ${place.type} is counted as metadata`);
      return null;
    }
    try {
      return (await ask(place)).reduce((sum, [start, length]) => sum + changed.within(start, length), 0);
    } catch (error) {
      if (place.signal?.aborted) throw error;
      notes.push(`the ${what} is counted as metadata: ${(error as Error).message}`);
      return null;
    }
  };
  const journal = await within('journal', kind.journal);
  const free = await within('free space', kind.free);
  return told(changed, largest, journal, free, notes);
}

function told(
  changed: ChangedRuns,
  largest: Largest,
  journal: number | null,
  free: number | null,
  notes: readonly string[],
): Owners {
  const { count, bytes } = largest;
  return {
    changed: changed.bytes,
    files: largest.list(),
    fileCount: count,
    fileBytes: bytes,
    journal,
    free,
    // Blocks that several files share count for each of them.
    metadata: Math.max(0, changed.bytes - bytes - (journal ?? 0) - (free ?? 0)),
    notes,
  };
}
