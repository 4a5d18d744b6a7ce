/**
 * The descriptor of a VMDK: lines of text, in a file of its own or within a sparse extent, that name the extents of the
 * disk and its parent (libyal/libvmdk, documentation/VMWare Virtual Disk Format (VMDK).asciidoc).
 */
import { AsofError } from '../errors.js';

/** Bytes of a descriptor; VMware's are a few kilobytes. */
export const MOST_DESCRIPTOR = 2 ** 20;

/** Extents of one disk: 64 TiB in files of 2 GiB. */
const MOST_EXTENTS = 32768;

/** Types whose disk is one extent: what is cut off of their descriptors is no extent. */
const SINGLE = new Set(
  [
    ...['monolithicSparse', 'monolithicFlat', 'streamOptimized', 'vmfs', 'vmfsSparse', 'vmfsThin'],
    ...['vmfsPreallocated', 'vmfsEagerZeroedThick', 'seSparse'],
  ].map(type => type.toLowerCase()),
);

export interface ExtentLine {
  readonly access: string;
  readonly sectors: number;
  readonly type: string;
  readonly name: string;
  /** Sectors from the start of the file. */
  readonly offset: number;
}

export interface Descriptor {
  readonly createType: string;
  readonly cid: string;
  /** Undefined where there is none. */
  readonly parentCid: string | undefined;
  readonly parentName: string | undefined;
  /** The values of the disk database, by their names in lower case. */
  readonly ddb: ReadonlyMap<string, string>;
  readonly extents: readonly ExtentLine[];
}

/** Whether a file that begins with `bytes` is a descriptor. */
export function isDescriptor(bytes: Buffer): boolean {
  return /^[\s]*#\s*disk descriptorfile/i.test(bytes.toString('latin1'));
}

/** Throws IMAGE_CORRUPT, or IMAGE_UNSUPPORTED. */
export function parseDescriptor(bytes: Buffer, path: string): Descriptor {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${path}: ${what}`);
  const text = decode(bytes, path);
  const values = new Map<string, string>();
  const extents: ExtentLine[] = [];
  for (const raw of text.split(/\r\n|\n|\r/)) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    const extent = /^(RW|RDONLY|NOACCESS)\s+(\d+)\s+(\w+)(?:\s+"([^"]*)"(?:\s+(\d+))?)?/i.exec(line);
    if (extent) {
      const [, access, sectors, type, name = '', offset = '0'] = extent as unknown as string[];
      extents.push({
        access: access!.toUpperCase(),
        sectors: Number(sectors),
        type: type!.toUpperCase(),
        name,
        offset: Number(offset),
      });
      continue;
    }
    const pair = /^([\w.]+)\s*=\s*(?:"([^"]*)"?|(.*))$/.exec(line);
    if (!pair)
      throw corrupt(`the line ${JSON.stringify(line.slice(0, 80))} of its descriptor says nothing known`);
    const key = pair[1]!.toLowerCase();
    if (values.has(key)) throw corrupt(`its descriptor says ${key} twice`);
    values.set(key, pair[2] ?? pair[3] ?? '');
  }
  if (extents.length > MOST_EXTENTS) {
    throw new AsofError(
      'IMAGE_UNSUPPORTED',
      `${path}: ${extents.length} extents are more than ${MOST_EXTENTS}`,
    );
  }
  const number = (key: string) => {
    const value = values.get(key.toLowerCase());
    if (value === undefined || !/^[0-9a-f]{1,8}$/i.test(value))
      throw corrupt(`its descriptor has no ${key} of eight hexadecimals`);
    return value.toLowerCase().padStart(8, '0');
  };
  const parent = number('parentCID');
  const isSingle = SINGLE.has((values.get('createtype') ?? '').toLowerCase());
  // Behind the extents stands the disk database: without it, nobody knows whether there were more.
  if (!/^\s*#?\s*(ddb\b|the disk data base)/im.test(text) && !(isSingle && extents.length === 1))
    throw corrupt('its descriptor ends before the disk database: it was cut off');
  return {
    createType: values.get('createtype') ?? '',
    cid: number('CID'),
    parentCid: parent === 'ffffffff' ? undefined : parent,
    parentName: values.get('parentfilenamehint') || undefined,
    ddb: new Map([...values].filter(([key]) => key.startsWith('ddb.'))),
    extents,
  };
}

/** The text up to its end, which zeros may follow, in the encoding that it states. */
function decode(bytes: Buffer, path: string): string {
  const end = bytes.indexOf(0);
  const held = end < 0 ? bytes : bytes.subarray(0, end);
  const stated = /^\s*encoding\s*=\s*"?([\w-]+)/im.exec(held.toString('latin1'))?.[1] ?? 'UTF-8';
  try {
    return new TextDecoder(stated).decode(held);
  } catch (error) {
    const what = `${path}: its descriptor is in the encoding ${JSON.stringify(stated)}`;
    throw new AsofError('IMAGE_UNSUPPORTED', what, '', { cause: error });
  }
}
