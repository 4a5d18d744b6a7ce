/** What lvm2 tells of logical volumes (lvs(8), lvmreport(7)): asked for in JSON, read here and nowhere else. */
import { runTool } from './tool.js';

/** Milliseconds for a question. */
const ASK_MS = 60_000;

export interface LogicalVolume {
  readonly group: string;
  readonly name: string;
  readonly uuid: string;
  /** "8:1" of the kernel's device; '' where it is not active. */
  readonly number: string;
  /** Of the device, as lvm2 names it. */
  readonly path: string;
  /** lvs(8): type, permissions, allocation, fixed minor, state, open, target, zero, health, skip activation. */
  readonly attributes: string;
  readonly segment: string;
  readonly tags: readonly string[];
  /** Of a snapshot. */
  readonly originUuid: string;
}

const FIELDS = [
  'vg_name',
  'lv_name',
  'lv_uuid',
  'lv_kernel_major',
  'lv_kernel_minor',
  'lv_path',
  'lv_attr',
  'segtype',
  'lv_tags',
  'origin_uuid',
] as const;

/** Those that `selection` selects (lvmreport(7)). Rejects where lvm2 fails or answers something else. */
export async function logicalVolumes(selection: string): Promise<LogicalVolume[]> {
  const args = [
    '--reportformat',
    'json',
    '--units',
    'b',
    '--nosuffix',
    '-o',
    FIELDS.join(','),
    '-S',
    selection,
  ];
  const text = await runTool('lvs', args, ASK_MS);
  let rows: unknown;
  try {
    rows = (JSON.parse(text) as { report?: { lv?: unknown }[] }).report?.[0]?.lv;
  } catch {
    rows = undefined;
  }
  if (!Array.isArray(rows)) throw new Error('lvs gave no report in JSON');
  // One row a segment.
  const all = new Map<string, LogicalVolume>();
  for (const row of rows as Record<string, unknown>[]) {
    const of = (field: (typeof FIELDS)[number]) => {
      const value = row[field];
      if (typeof value !== 'string' && typeof value !== 'number') throw new Error(`lvs gave no ${field}`);
      return String(value);
    };
    const major = Number(of('lv_kernel_major'));
    all.set(of('lv_uuid'), {
      group: of('vg_name'),
      name: of('lv_name'),
      uuid: of('lv_uuid'),
      number: major > 0 ? `${major}:${of('lv_kernel_minor')}` : '',
      path: of('lv_path'),
      attributes: of('lv_attr'),
      segment: of('segtype'),
      tags: of('lv_tags')
        .split(',')
        .filter(tag => tag !== ''),
      originUuid: of('origin_uuid'),
    });
  }
  return [...all.values()];
}

/**
 * Why what it reads may be wrong, or cannot be read; '' where it can be. Not by snap_percent: one that can hold all of its
 * origin is sound at 100, and a thin one has none of its own.
 */
export function troubleOf({ attributes, name }: LogicalVolume): string {
  const state = attributes[4];
  if (state === 'I' || state === 'S')
    return `${name} is invalid: more was written to its origin than it could hold`;
  if (state === 'm' || state === 'M') return `${name} could not be merged`;
  const health = attributes[8];
  if (health === 'p') return `a physical volume of ${name} is missing`;
  if (health === 'F') return `the thin pool of ${name} has failed`;
  return '';
}
