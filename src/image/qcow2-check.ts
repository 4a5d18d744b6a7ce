import type { ImageFile } from '../block/file.js';
import type { Finding } from './finding.js';
import type { Header } from './qcow2-header.js';
import type { Geometry } from './qcow2-map.js';
import type { SnapshotTable } from './qcow2-snapshots.js';

export function checkImage(
  file: ImageFile,
  header: Header,
  table: SnapshotTable,
  geometry: Geometry,
): Iterable<Finding> {
  void [file, header, table, geometry];
  return [];
}
