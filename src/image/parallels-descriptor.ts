/**
 * DiskDescriptor.xml of a Parallels bundle: which files a disk is split into, and which states of it stand on which
 * (libyal/libphdi, documentation/Parallels Hard Disk image format.asciidoc). A file of the bundle says nothing of this itself:
 * read alone, it would show zeros where its parent holds data.
 */
import { lstatSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ImageFile } from '../block/file.js';
import { AsofError, errnoOf } from '../errors.js';
import { childOf, type Element, parseXml } from './xml.js';

export const DESCRIPTOR = 'DiskDescriptor.xml';

/** Bytes of a descriptor; Parallels writes some kilobytes. */
const MOST_DESCRIPTOR = 2 ** 20;

const SECTOR = 512;
const NIL = '00000000-0000-0000-0000-000000000000';
/** The current state, where the descriptor does not name it. */
const TOP = '5fbaabe3-6958-40ff-92a7-860e329aab41';

export interface StoredImage {
  readonly guid: string;
  readonly plain: boolean;
  /** The last component of the name: nothing else of it counts. */
  readonly file: string;
}

/** A part of the disk: for every state there is one image of it. */
export interface Storage {
  /** Bytes. */
  readonly start: number;
  readonly end: number;
  readonly blockSize: number;
  readonly images: readonly StoredImage[];
}

export interface Descriptor {
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly sectorSize: 512 | 4096;
  readonly storages: readonly Storage[];
  readonly top: string;
  /** States, and the one that each stands on; undefined for one that stands on nothing. */
  readonly parents: ReadonlyMap<string, string | undefined>;
}

/**
 * The descriptor in the folder of `file`; undefined where there is none. Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED,
 * IMAGE_ENCRYPTED, or IO.
 */
export function descriptorBeside(file: ImageFile): Descriptor | undefined {
  const path = join(dirname(file.path), DESCRIPTOR);
  try {
    const stat = lstatSync(path);
    // A link would be a way out of the folder.
    if (!stat.isFile()) throw new AsofError('IMAGE_UNSUPPORTED', `${path} is no regular file`);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'].includes(errnoOf(error))) return undefined;
    if (error instanceof AsofError) throw error;
    throw new AsofError('IO', `cannot look at ${path}: ${errnoOf(error)}`, '', { cause: error });
  }
  const descriptor = ImageFile.open(path);
  try {
    return parseDescriptor(descriptor);
  } finally {
    descriptor.close();
  }
}

export function isDescriptor(file: ImageFile): boolean {
  return /<Parallels_disk_image[\s>]/.test(file.read(0, 1024).toString('latin1'));
}

/** Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED, IMAGE_ENCRYPTED, or IO. */
export function parseDescriptor(file: ImageFile): Descriptor {
  const { path } = file;
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${path}: ${what}`);
  if (file.size > MOST_DESCRIPTOR)
    throw new AsofError('IMAGE_UNSUPPORTED', `${path} has ${file.size} bytes, more than ${MOST_DESCRIPTOR}`);
  const root = parseXml(file.read(0, file.size).toString('utf8'));
  if (root?.name !== 'Parallels_disk_image') throw corrupt('it is no sound descriptor of a Parallels disk');
  const parameters = childOf(root, 'Disk_Parameters');
  const engine = childOf(childOf(parameters, 'Encryption'), 'Engine')?.text ?? '';
  if (/[1-9a-f]/i.test(engine)) throw new AsofError('IMAGE_ENCRYPTED', `${path}: the disk is encrypted`);
  const number = (element: Element | undefined, name: string): number => {
    const text = childOf(element, name)?.text.trim() ?? '';
    if (!/^\d{1,15}$/.test(text)) throw corrupt(`${name} is no number: ${JSON.stringify(text.slice(0, 40))}`);
    const value = Number(text);
    if (!Number.isSafeInteger(value * SECTOR))
      throw corrupt(`${name} is ${text}, which is beyond 2^53 bytes`);
    return value;
  };
  const sectorSize = childOf(parameters, 'LogicSectorSize') ? number(parameters, 'LogicSectorSize') : 512;
  if (sectorSize !== 512 && sectorSize !== 4096)
    throw new AsofError('IMAGE_UNSUPPORTED', `${path}: sectors of ${sectorSize} bytes`);
  const storages = (childOf(root, 'StorageData')?.children ?? [])
    .filter(({ name }) => name === 'Storage')
    .map(storage => ({
      start: number(storage, 'Start') * SECTOR,
      end: number(storage, 'End') * SECTOR,
      blockSize: number(storage, 'Blocksize') * SECTOR,
      images: storage.children.filter(({ name }) => name === 'Image').map(image => imageIn(image, corrupt)),
    }));
  let end = 0;
  for (const storage of storages) {
    if (storage.start !== end || storage.end <= storage.start)
      throw corrupt(`a part of the disk is from byte ${storage.start} to ${storage.end}, behind ${end}`);
    end = storage.end;
  }
  const size = number(parameters, 'Disk_size') * SECTOR;
  if (size !== end || size === 0) throw corrupt(`the parts have ${end} bytes, where the disk has ${size}`);
  const snapshots = childOf(root, 'Snapshots');
  const parents = parentsIn(snapshots, storages, corrupt);
  return { path, size, sectorSize, storages, parents, top: topOf(snapshots, storages, parents, corrupt) };
}

type Corrupt = (what: string) => AsofError;

function imageIn(image: Element, corrupt: Corrupt): StoredImage {
  const type = childOf(image, 'Type')?.text.trim() ?? '';
  const file = childOf(image, 'File')?.text.trim().split(/[\\/]/).at(-1) ?? '';
  if (type !== 'Compressed' && type !== 'Plain')
    throw corrupt(`an image is of the type ${JSON.stringify(type)}`);
  if (file === '' || file === '.' || file === '..') throw corrupt('an image has no file');
  return { guid: guidIn(childOf(image, 'GUID'), corrupt), plain: type === 'Plain', file };
}

function guidIn(element: Element | undefined, corrupt: Corrupt): string {
  const text = element?.text.trim() ?? '';
  const guid = /^\{?([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})\}?$/i.exec(text)?.[1];
  if (guid === undefined) throw corrupt(`${JSON.stringify(text.slice(0, 40))} is no identifier`);
  return guid.toLowerCase();
}

function parentsIn(
  snapshots: Element | undefined,
  storages: readonly Storage[],
  corrupt: Corrupt,
): ReadonlyMap<string, string | undefined> {
  const parents = new Map<string, string | undefined>();
  for (const shot of snapshots?.children ?? []) {
    if (shot.name !== 'Shot') continue;
    const guid = guidIn(childOf(shot, 'GUID'), corrupt);
    const parent = guidIn(childOf(shot, 'ParentGUID'), corrupt);
    if (guid === NIL || guid === parent || parents.has(guid))
      throw corrupt(`the state ${guid} is named twice, or stands on itself`);
    parents.set(guid, parent === NIL ? undefined : parent);
  }
  for (const { images } of storages) {
    if (new Set(images.map(({ guid }) => guid)).size !== images.length)
      throw corrupt('a state has two images of one part');
    // A disk without snapshots need not list the one state that it has.
    const [only] = images;
    if (parents.size === 0 && images.length === 1) parents.set(only!.guid, undefined);
    for (const { guid } of images)
      if (!parents.has(guid)) throw corrupt(`nothing says what the state ${guid} stands on`);
  }
  return parents;
}

function topOf(
  snapshots: Element | undefined,
  storages: readonly Storage[],
  parents: ReadonlyMap<string, string | undefined>,
  corrupt: Corrupt,
): string {
  const stated = childOf(snapshots, 'TopGUID');
  if (stated) return guidIn(stated, corrupt);
  const states = storages[0]!.images.map(({ guid }) => guid);
  if (states.includes(TOP)) return TOP;
  const below = new Set(parents.values());
  const tops = states.filter(guid => !below.has(guid));
  if (tops.length !== 1) throw corrupt(`it does not say which of ${tops.length} states is the current one`);
  return tops[0]!;
}
