/**
 * Formats that asof knows by sight only. A file of one of them must not be taken for raw: its headers and tables
 * would be shown as the sectors of a disk.
 */
import type { ImageFile } from '../block/file.js';

interface Signature {
  readonly name: string;
  readonly bytes: string;
  /** From the start of the file; negative from its end. */
  readonly at: number;
}

const SIGNATURES: readonly Signature[] = [
  { name: 'qed', bytes: 'QED\0', at: 0 },
  { name: 'dmg, encrypted', bytes: 'encrcdsa', at: 0 },
  { name: 'dmg, encrypted', bytes: 'cdsaencr', at: -8 },
  { name: 'sparseimage (macOS)', bytes: 'sprs', at: 0 },
  { name: 'L01 (logical evidence: files, no disk)', bytes: 'LVF\t\r\n\xff\0', at: 0 },
  { name: 'ewf, encrypted (AD encryption)', bytes: 'ADCRYPT\0', at: 0 },
  { name: 'Lx01 (logical evidence: files, no disk)', bytes: 'LEF2\r\n\x81\0', at: 0 },
  { name: 'aff', bytes: 'AFF10\r\n\0', at: 0 },
  { name: 'mrimg (Macrium Reflect)', bytes: 'MACRIUM_FILE', at: -12 },
  { name: 'partclone', bytes: 'partclone-image\0', at: 0 },
];

/** The name of the format whose signature `file` bears; undefined where it bears none. */
export function foreignFormat(file: ImageFile): string | undefined {
  const head = file.read(0, 128).toString('latin1');
  const tail = file.size >= 512 ? file.read(file.size - 512, 512).toString('latin1') : '';
  const bears = ({ bytes, at }: Signature) =>
    at >= 0 ? head.startsWith(bytes, at) : tail !== '' && tail.startsWith(bytes, 512 + at);
  return SIGNATURES.find(bears)?.name;
}
