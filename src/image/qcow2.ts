/**
 * qcow2, versions 2 and 3: an image of header, tables and clusters. Parsing only; qcow2-header.ts reads the header,
 * qcow2-map.ts the tables, qcow2-snapshots.ts the internal snapshots, and qcow2-check.ts examines all of them.
 */
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import type { DataFile, Image, ImageFormat, InternalSnapshot, OpenOptions } from './format.js';
import { Pages } from './pages.js';
import { checkImage } from './qcow2-check.js';
import { BITMAPS, CORRUPT, DIRTY, type Header, MAGIC, parseHeader } from './qcow2-header.js';
import { type Geometry, TableLayer, type Taken } from './qcow2-map.js';
import { parseSnapshots, type SnapshotTable } from './qcow2-snapshots.js';

export const qcow2: ImageFormat = {
  name: 'qcow2',
  probe(file) {
    const head = file.read(0, 8);
    if (head.toString('latin1', 0, 4) !== MAGIC) return 'no';
    if (head.length >= 8 && head.readUInt32BE(4) === 1) return 'no';
    try {
      parseHeader(file);
      return 'yes';
    } catch (error) {
      if (error instanceof AsofError && error.code !== 'IO') return error;
      throw error;
    }
  },
  open,
};

function open(file: ImageFile, options: OpenOptions): Image {
  if (file.read(0, 4).toString('latin1') !== MAGIC) {
    throw new AsofError(
      'IMAGE_CORRUPT',
      `${file.path} is not a qcow2 image: its first bytes are not QFI\\xfb`,
    );
  }
  const header = parseHeader(file);
  const dataFile = header.hasDataFile ? openDataFile(file, header, options) : undefined;
  const table = parseSnapshots(file, header);
  const geometry: Geometry = {
    pages: new Pages(file),
    version: header.version,
    clusterBits: header.clusterBits,
    clusterSize: header.clusterSize,
    extendedL2: header.extendedL2,
    codec: header.codec,
    data: dataFile?.file ?? file,
    taken: takenBy(header, table),
  };
  const layer = new TableLayer(geometry, header.size, header.l1Offset, header.l1Entries);
  const snapshots = table.entries.map(
    (entry): InternalSnapshot => ({
      id: entry.id,
      name: entry.name,
      time: entry.time,
      size: entry.size,
      vmStateSize: entry.vmStateSize,
      layer: new TableLayer(geometry, entry.size, entry.l1Offset, entry.l1Entries),
    }),
  );
  const troubles = troublesOf(header, table);
  return {
    file,
    format: 'qcow2',
    size: header.size,
    sectorSize: 512,
    features: featuresOf(header, dataFile),
    layer,
    snapshots,
    parent:
      header.backingName === undefined
        ? undefined
        : { name: header.backingName, format: header.backingFormat },
    dataFile,
    troubles,
    check: () => checkImage({ file, header, table, geometry, troubles, layer, snapshots }),
  };
}

function openDataFile(file: ImageFile, header: Header, options: OpenOptions): DataFile {
  const name = header.dataFileName;
  if (name === undefined) {
    throw new AsofError('IMAGE_CORRUPT', `${file.path} needs an external data file and does not name it`);
  }
  return { name, file: options.companion(name), raw: header.dataFileRaw };
}

/** What the header itself places: the first cluster and the tables that it names, in whole clusters. */
function takenBy(header: Header, snapshots: SnapshotTable): Taken[] {
  const { clusterSize } = header;
  const places: Taken[] = [
    { what: 'the header', start: 0, end: clusterSize },
    { what: 'the L1 table', start: header.l1Offset, end: header.l1Offset + header.l1Entries * 8 },
    {
      what: 'the refcount table',
      start: header.refcountTableOffset,
      end: header.refcountTableOffset + header.refcountTableClusters * clusterSize,
    },
    {
      what: 'the snapshot table',
      start: header.snapshotsOffset,
      end: header.snapshotsOffset + snapshots.length,
    },
  ];
  return places
    .filter(({ start, end }) => end > start)
    .map(({ what, start, end }) => ({ what, start, end: Math.ceil(end / clusterSize) * clusterSize }));
}

function featuresOf(header: Header, dataFile: DataFile | undefined): string[] {
  const flag = (name: string, on: boolean) => (on ? [name] : []);
  return [
    `version=${header.version}`,
    `cluster-size=${header.clusterSize}`,
    `refcount-bits=${2 ** header.refcountOrder}`,
    `compression=${header.codec === 'zstd' ? 'zstd' : 'zlib'}`,
    ...flag('extended-l2', header.extendedL2),
    ...flag('lazy-refcounts', header.lazyRefcounts),
    ...(dataFile ? [`data-file=${dataFile.name}`] : []),
    ...flag('data-file-raw', header.dataFileRaw),
    ...(header.bitmaps ? [`bitmaps=${header.bitmaps.count}`] : []),
    ...flag('dirty', (header.incompatible & DIRTY) !== 0n),
    ...flag('corrupt', (header.incompatible & CORRUPT) !== 0n),
  ];
}

function troublesOf(header: Header, snapshots: SnapshotTable): string[] {
  const troubles: string[] = [];
  if ((header.incompatible & CORRUPT) !== 0n) {
    troubles.push('the image is marked as corrupt by the program that wrote it');
  }
  if ((header.autoclear & BITMAPS) !== 0n && !header.bitmaps) {
    troubles.push('the header announces bitmaps and has none');
  }
  if (snapshots.trouble) troubles.push(snapshots.trouble);
  return troubles;
}
