/**
 * The provider `lvm`: a snapshot by lvm2 of the logical volume that is the origin (lvcreate(8)). Of a thin volume it is thin
 * and has no size of its own. Of any other it is thick: it takes as much of the volume group as was asked for (all that the
 * origin could change unless it was), and where more of the origin changes it becomes invalid, for good: the kernel then
 * gives errors for all of it.
 *
 * It is named asof-<id>, read-only, and tagged with whose it is and of which moment, so that it is found again by its tags.
 * Until it is known that writers were held until it was there it is tagged as new: what a daemon that died leaves so goes.
 * It takes no groups: lvm2 makes one after the other.
 */
import { openFileDisk } from './file-disk.js';
import { whileHeld } from './hold.js';
import { type LogicalVolume, logicalVolumes, troubleOf } from './lvm.js';
import type { ProviderVolume, SnapshotProvider } from './provider.js';
import type { SnapshotState } from './snapshot.js';
import { runTool } from './tool.js';

const TAG = 'asof';
const VOLUME_TAG = 'asof.volume=';
const TIME_TAG = 'asof.time=';
const NEW_TAG = 'asof.new';
const ID = /^asof-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/;

/** Milliseconds for what nobody waits for. */
const PATIENCE_MS = 60_000;

/** What lvm2 said last of a volume's snapshots, by id; and those whose deletion it still owes. */
interface Known {
  snapshots: ReadonlyMap<string, LogicalVolume>;
  readonly owed: Set<string>;
  /** Why lvm2 did not answer; '' where it did. */
  why: string;
}

const KNOWN = new WeakMap<ProviderVolume['origin'], Known>();

export const lvm: SnapshotProvider = {
  name: 'lvm',
  can: {
    group: false,
    freeze: false,
    persistent: true,
    tracked: false,
    independent: true,
    release: false,
    preserves: true,
  },

  async unavailable(volume) {
    const { path, device } = volume.origin;
    if (!device) return `${path} is a file; lvm2 takes snapshots of logical volumes`;
    try {
      const origin = await originOf(volume);
      if (!origin) return `${path} is no logical volume`;
      const type = origin.attributes[0]!;
      if ('sS'.includes(type)) return `${path} is itself a snapshot`;
      return undefined;
    } catch (error) {
      return (error as Error).message;
    }
  },

  async take(requests, _group, timeoutMs) {
    const [request, second] = requests;
    if (!request || second) throw new Error('lvm2 takes one volume at a time');
    const { volume, id } = request;
    const end = performance.now() + timeoutMs;
    const origin = await originOf(volume);
    if (!origin) throw new Error(`${volume.origin.path} is no logical volume`);
    const size =
      volume.lvmSize === undefined ? ['--extents', '100%ORIGIN'] : ['--size', `${volume.lvmSize}b`];
    const how = origin.segment === 'thin' ? ['--setactivationskip', 'n'] : size;
    const left = Math.floor(end - performance.now());
    if (left <= 0) throw new Error('lvm2 did not answer in time');
    const taken = await whileHeld([volume], left, async time => {
      const tags = [TAG, NEW_TAG, VOLUME_TAG + volume.definition.id, TIME_TAG + time];
      const told = tags.flatMap(tag => ['--addtag', tag]);
      const args = ['--yes', '--snapshot', '--permission', 'r', '--name', `asof-${id}`, ...told, ...how];
      await runTool('lvcreate', [...args, `${origin.group}/${origin.name}`], left);
    });
    await runTool('lvchange', ['--deltag', NEW_TAG, `${origin.group}/asof-${id}`], PATIENCE_MS);
    await refresh(volume);
    const made = knownOf(volume).snapshots.get(id);
    if (!made) throw new Error(`lvcreate succeeded, and lvs does not know asof-${id}`);
    const trouble = troubleOf(made);
    if (trouble !== '') throw new Error(trouble);
    return taken;
  },

  async list(volume) {
    if (!volume.origin.device) return [];
    await refresh(volume);
    const { snapshots } = knownOf(volume);
    const found = [];
    for (const [id, one] of snapshots) {
      if (one.tags.includes(NEW_TAG)) {
        knownOf(volume).owed.add(id);
        continue;
      }
      // Others may have deactivated it, or a restart of the machine has not activated it.
      if (one.number === '') await activate(one).catch(() => undefined);
      found.push({ id, group: id, groupSize: 1, time: timeOf(one), holdNs: 0, switchNs: 0, epoch: 0 });
    }
    if (snapshots.size > 0) await refresh(volume);
    return found;
  },

  refresh,

  states(volume) {
    const { snapshots, why } = knownOf(volume);
    return (id): { state: SnapshotState; why: string } => {
      if (why !== '') return { state: 'unknown', why };
      const one = snapshots.get(id);
      if (!one) return { state: 'broken', why: `there is no logical volume asof-${id} any more` };
      const trouble = troubleOf(one);
      if (trouble !== '') return { state: 'broken', why: trouble };
      if (one.number !== '') return { state: 'live', why: '' };
      return { state: 'unknown', why: `it is not active: lvchange -ay -K ${one.group}/${one.name}` };
    };
  },

  open(volume, { id }) {
    const { snapshots } = knownOf(volume);
    const one = snapshots.get(id);
    if (!one) throw new Error(`there is no logical volume asof-${id}`);
    return openFileDisk(one.path, volume.definition);
  },

  async delete(volume, { id }) {
    const known = knownOf(volume);
    if (!volume.origin.device) return;
    await refresh(volume);
    const one = known.snapshots.get(id);
    if (!one) {
      if (known.why !== '') throw new Error(known.why);
      return;
    }
    try {
      await remove(one);
      known.snapshots = new Map([...known.snapshots].filter(([other]) => other !== id));
    } catch (error) {
      // Somebody reads it still: tried again at each look.
      known.owed.add(id);
      throw error;
    }
  },

  async release() {
    throw Object.assign(new Error('lvm2 keeps a snapshot whole'), { code: 'EOPNOTSUPP' });
  },
};

function knownOf(volume: ProviderVolume): Known {
  let known = KNOWN.get(volume.origin);
  if (!known) {
    known = { snapshots: new Map(), owed: new Set(), why: 'lvm2 has not been asked yet' };
    KNOWN.set(volume.origin, known);
  }
  return known;
}

/** Never rejects: what could not be learnt is the state of every snapshot. */
async function refresh(volume: ProviderVolume): Promise<void> {
  const known = knownOf(volume);
  try {
    const all = await logicalVolumes(`lv_tags=${TAG}`);
    const own = VOLUME_TAG + volume.definition.id;
    const snapshots = new Map<string, LogicalVolume>();
    for (const one of all) {
      const id = ID.exec(one.name)?.[1];
      if (id !== undefined && one.tags.includes(own)) snapshots.set(id, one);
    }
    known.snapshots = snapshots;
    known.why = '';
  } catch (error) {
    known.why = (error as Error).message;
    return;
  }
  for (const id of known.owed) {
    const one = known.snapshots.get(id);
    const gone =
      one === undefined ||
      (await remove(one).then(
        () => true,
        () => false,
      ));
    if (gone) known.owed.delete(id);
  }
}

/** The logical volume whose device the origin is, by the kernel's number: it goes by many names. */
async function originOf({ origin }: ProviderVolume): Promise<LogicalVolume | undefined> {
  const [major, minor] = (origin.device?.number ?? '').split(':');
  const all = await logicalVolumes(`lv_kernel_major=${major} && lv_kernel_minor=${minor}`);
  return all.find(({ number }) => number === origin.device?.number);
}

function timeOf({ tags }: LogicalVolume): number {
  const tag = tags.find(one => one.startsWith(TIME_TAG));
  return tag === undefined ? 0 : Number(tag.slice(TIME_TAG.length)) || 0;
}

async function activate({ group, name }: LogicalVolume): Promise<void> {
  await runTool('lvchange', ['--activate', 'y', '--ignoreactivationskip', `${group}/${name}`], PATIENCE_MS);
}

/** lvm2 is told the name alone: it must be one of ours. */
async function remove({ group, name }: LogicalVolume): Promise<void> {
  if (!ID.test(name)) throw new Error(`${name} is none of ours`);
  await runTool('lvremove', ['--yes', `${group}/${name}`], PATIENCE_MS);
}
