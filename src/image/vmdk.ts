/**
 * VMDK, the disk of VMware: a descriptor that names extents, plain files or sparse ones, which lie one behind the other; or
 * one sparse file with the descriptor inside. A delta link names its parent and the content that it had (its CID).
 */
import { basename } from 'node:path';
import { concat } from '../block/concat.js';
import type { LayerExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { rawLayer } from '../block/raw-file.js';
import { checkRange, type Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import type { Finding } from './finding.js';
import type { Image, ImageFormat, OpenOptions, ParentLink } from './format.js';
import {
  type Descriptor,
  type ExtentLine,
  isDescriptor,
  MOST_DESCRIPTOR,
  parseDescriptor,
} from './vmdk-descriptor.js';
import { isSesparse, parseSesparse, SesparseLayer } from './vmdk-sesparse.js';
import { ESX, HOSTED, parseSparse, type SparseHeader, SparseLayer } from './vmdk-sparse.js';

const SECTOR = 512;

/** Runs that the doctor looks at. */
const MOST_RUNS = 2 ** 25;

export const vmdk: ImageFormat = {
  name: 'vmdk',
  probe(file) {
    const head = file.read(0, SECTOR);
    const mark = head.toString('latin1', 0, 4);
    if (mark === HOSTED || mark === ESX || isSesparse(head) || isDescriptor(head)) return 'yes';
    // Taken for raw, a file whose first bytes are damaged would show its tables as a disk. Plain extents have other names.
    if (!/\.vmdk$/i.test(file.path) || /-(flat|f\d+|rdmp?|pt\d*)\.vmdk$/i.test(file.path)) return 'no';
    return new AsofError(
      'IMAGE_CORRUPT',
      `${file.path} is named as a VMDK and bears no mark of one`,
      '--format raw shows the bytes of the file itself',
    );
  },
  open(file, options): Image {
    const head = file.read(0, SECTOR);
    if (isSesparse(head)) throw partOnly(file);
    const own = isDescriptor(head) ? undefined : parseSparse(file);
    const descriptor = own ? embedded(file, own) : alone(file);
    const troubles: string[] = [];
    const layers = own
      ? [single(file, own, descriptor, troubles)]
      : extents(file, descriptor, options, troubles);
    const layer = concat(layers);
    const image: Image = {
      file,
      format: 'vmdk',
      size: layer.size,
      sectorSize: 512,
      features: [`type=${descriptor.createType}`, `extents=${layers.length}`, `cid=${descriptor.cid}`],
      layer,
      snapshots: [],
      parent: parentOf(file, descriptor),
      dataFile: undefined,
      identity: { id: descriptor.cid },
      troubles,
      check: () => examine(file, layer, troubles),
    };
    descriptors.set(image, descriptor);
    return image;
  },
};

/** What a child compares: of an image that this file has opened. */
const descriptors = new WeakMap<Image, Descriptor>();

/** An extent of a set, whose descriptor is another file. */
function partOnly(file: ImageFile): AsofError {
  return new AsofError(
    'IMAGE_UNSUPPORTED',
    `${file.path} is an extent of a VMDK, and no whole one`,
    'name the file of the descriptor, such as NAME.vmdk beside NAME-s001.vmdk or NAME-delta.vmdk',
  );
}

function embedded(file: ImageFile, { descriptor }: SparseHeader): Descriptor {
  const { offset, length } = descriptor;
  if (length > MOST_DESCRIPTOR) throw tooLong(file, length);
  const bytes = offset === 0 ? Buffer.alloc(0) : file.read(offset, length);
  // An extent of a set has no descriptor, or room for one with nothing in it.
  if ((bytes[0] ?? 0) === 0) throw partOnly(file);
  return parseDescriptor(bytes, file.path);
}

function alone(file: ImageFile): Descriptor {
  if (file.size > MOST_DESCRIPTOR) throw tooLong(file, file.size);
  return parseDescriptor(file.read(0, file.size), file.path);
}

const tooLong = (file: ImageFile, length: number) =>
  new AsofError(
    'IMAGE_UNSUPPORTED',
    `${file.path}: a descriptor of ${length} bytes is longer than ${MOST_DESCRIPTOR}`,
  );

/** The one extent of a file that holds its own descriptor. The name in it may be an old one. */
function single(file: ImageFile, header: SparseHeader, { extents }: Descriptor, troubles: string[]): Layer {
  const [line, ...more] = extents;
  if (!line || more.length > 0 || line.type !== 'SPARSE') {
    throw new AsofError(
      'IMAGE_CORRUPT',
      `${file.path}: the descriptor within does not name one sparse extent`,
    );
  }
  return sparse(file, header, line, file, troubles);
}

/** `line` is of the descriptor in `named`. */
function sparse(
  file: ImageFile,
  header: SparseHeader,
  line: ExtentLine,
  named: ImageFile,
  troubles: string[],
): Layer {
  const { capacity, grain, dirty } = header;
  fits(line, capacity, grain, file, named);
  if (dirty) troubles.push(`${basename(file.path)} was not closed cleanly`);
  return new SparseLayer(file, header, line.sectors * SECTOR);
}

/** Throws IMAGE_CORRUPT where a line gives an extent another size than it has itself; its last grain need not be whole. */
function fits(
  { sectors }: ExtentLine,
  capacity: number,
  grain: number,
  file: ImageFile,
  named: ImageFile,
): void {
  if (sectors <= capacity && capacity - sectors < grain) return;
  const what = `${named.path} gives ${sectors} sectors to ${file.path}, which has ${capacity}`;
  throw new AsofError('IMAGE_CORRUPT', what);
}

function extents(
  file: ImageFile,
  descriptor: Descriptor,
  { companion }: OpenOptions,
  troubles: string[],
): Layer[] {
  const opened = new Map<string, ImageFile>();
  const open = (name: string) => {
    const known = opened.get(name) ?? companion(name);
    opened.set(name, known);
    return known;
  };
  if (descriptor.extents.length === 0) throw new AsofError('IMAGE_CORRUPT', `${file.path} names no extents`);
  const layers = descriptor.extents.map(line => {
    const size = line.sectors * SECTOR;
    if (!Number.isSafeInteger(size) || !Number.isSafeInteger(line.offset * SECTOR))
      throw new AsofError(
        'IMAGE_CORRUPT',
        `${file.path}: an extent of ${line.sectors} sectors is beyond 2^53 bytes`,
      );
    if (line.access === 'NOACCESS') {
      return filled(size, {
        kind: 'bad',
        length: size,
        why: `${file.path} allows no access to it`,
        by: file,
      });
    }
    switch (line.type) {
      case 'ZERO':
        return filled(size, { kind: 'zero', length: size, by: file });
      case 'FLAT':
      case 'VMFS':
        return flat(open(line.name), line.offset * SECTOR, size, troubles);
      case 'SPARSE':
      case 'VMFSSPARSE': {
        const data = open(line.name);
        const mark = data.read(0, 4).toString('latin1');
        const wanted = line.type === 'SPARSE' ? HOSTED : ESX;
        if (mark !== wanted)
          throw new AsofError(
            'IMAGE_CORRUPT',
            `${data.path} is not the ${line.type} extent that ${file.path} names`,
          );
        return sparse(data, parseSparse(data), line, file, troubles);
      }
      case 'SESPARSE': {
        const data = open(line.name);
        const header = parseSesparse(data);
        fits(line, header.capacity, 8, data, file);
        return new SesparseLayer(data, header, size);
      }
      default:
        throw new AsofError(
          'IMAGE_UNSUPPORTED',
          `${file.path}: an extent of the type ${line.type} is no file`,
        );
    }
  });
  notSwapped(file, descriptor, open);
  return layers;
}

/** Plain extents bear no mark; of those whose sizes differ, at least it is seen where each has the other's. */
function notSwapped(file: ImageFile, { extents }: Descriptor, open: (name: string) => ImageFile): void {
  const plain = extents.filter(({ type, offset }) => (type === 'FLAT' || type === 'VMFS') && offset === 0);
  if (plain.some(({ access }) => access === 'NOACCESS')) return;
  const stated = plain.map(({ sectors }) => sectors * SECTOR);
  const found = plain.map(({ name }) => open(name).size);
  const both = [stated, found].map(all => [...all].sort((a, b) => a - b).join());
  const odd = stated.findIndex((size, i) => size !== found[i]);
  if (odd < 0 || both[0] !== both[1]) return;
  throw new AsofError(
    'IMAGE_CORRUPT',
    `${plain[odd]!.name} has the size that ${file.path} gives to another extent: their names were swapped`,
  );
}

function filled(size: number, run: LayerExtent): Layer {
  return {
    size,
    *extents(offset, length) {
      checkRange(size, offset, length);
      if (length > 0) yield { ...run, length };
    },
    close() {},
  };
}

/** `size` bytes of `file` from `start`; what it does not have is bad. */
function flat(file: ImageFile, start: number, size: number, troubles: string[]): Layer {
  const layer = rawLayer(file);
  const held = Math.max(0, Math.min(size, file.size - start));
  if (held < size) troubles.push(`${basename(file.path)} is cut off: ${size - held} bytes are missing`);
  if (start === 0 && file.size > size)
    troubles.push(`${basename(file.path)} has ${file.size - size} bytes more than its descriptor says`);
  const why = `${file.path} ends before these bytes`;
  return {
    size,
    *extents(offset, length) {
      checkRange(size, offset, length);
      const there = Math.max(0, Math.min(length, held - offset));
      if (there > 0) yield* layer.extents(start + offset, there);
      if (there < length) yield { kind: 'bad', length: length - there, why, by: file };
    },
    close() {},
  };
}

function parentOf(file: ImageFile, { parentCid, parentName, ddb }: Descriptor): ParentLink | undefined {
  const uuid = uuidOf(ddb, 'ddb.uuid.parent');
  if (parentCid !== undefined && parentName !== undefined) {
    return {
      name: parentName,
      format: 'vmdk',
      refuses(parent) {
        const { cid } = descriptors.get(parent) ?? {};
        return cid === parentCid
          ? undefined
          : `its content has the ID ${cid ?? 'none'}, and was ${parentCid}`;
      },
    };
  }
  // VirtualBox links by UUID only.
  if (uuid !== '') {
    const changed = uuidOf(ddb, 'ddb.uuid.parentmodification');
    return {
      name: uuid,
      format: 'vmdk',
      byIdentity: { may: one => hasUuid(one, uuid) },
      refuses(parent) {
        const values = descriptors.get(parent)?.ddb ?? new Map<string, string>();
        const found = uuidOf(values, 'ddb.uuid.image');
        if (found !== uuid) return `its UUID is ${found || 'none'}, and not ${uuid}`;
        const state = uuidOf(values, 'ddb.uuid.modification');
        return changed === '' || state === changed ? undefined : 'it was changed since';
      },
    };
  }
  if (parentCid === undefined && parentName === undefined) return undefined;
  throw new AsofError(
    'IMAGE_CORRUPT',
    `${file.path} is a delta link that states ${parentName === undefined ? 'no name' : 'no content ID'} of its parent`,
  );
}

/** Whether `file` is a VMDK of that UUID, in whatever state. */
function hasUuid(file: ImageFile, uuid: string): boolean {
  try {
    if (vmdk.probe(file) !== 'yes') return false;
    const { ddb } = isDescriptor(file.read(0, SECTOR)) ? alone(file) : embedded(file, parseSparse(file));
    return uuidOf(ddb, 'ddb.uuid.image') === uuid;
  } catch (error) {
    if (error instanceof AsofError) return false;
    throw error;
  }
}

/** '' where there is none, or zeros. */
function uuidOf(values: ReadonlyMap<string, string>, key: string): string {
  const value = (values.get(key) ?? '').toLowerCase();
  return /[1-9a-f]/.test(value) ? value : '';
}

function* examine(
  file: ImageFile,
  layer: Layer,
  troubles: readonly string[],
): Generator<Finding, void, undefined> {
  const of = { member: file.path, count: 1 };
  for (const what of troubles) yield { severity: 'note', kind: 'image', what, ...of };
  let offset = 0;
  let last: { readonly start: number; readonly end: number; readonly why: string } | undefined;
  const range = ({ start, end, why }: NonNullable<typeof last>): Finding => ({
    severity: 'defect',
    kind: 'range',
    what: why,
    range: { offset: start, length: end - start },
    ...of,
  });
  let runs = 0;
  for (const run of layer.extents(0, layer.size)) {
    if (++runs > MOST_RUNS) {
      const what = 'the disk has more runs than are looked at; the rest is not checked';
      yield { severity: 'note', kind: 'image', what, ...of };
      break;
    }
    const end = offset + run.length;
    if (run.kind === 'bad') {
      if (last && last.end === offset && last.why === run.why) last = { ...last, end };
      else {
        if (last) yield range(last);
        last = { start: offset, end, why: run.why };
      }
    }
    offset = end;
  }
  if (last) yield range(last);
}
