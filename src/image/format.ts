/**
 * What an image format is, and the ordered table of them.
 *
 * A format is one entry of the table: it recognises a file and parses its metadata into layers. It never opens a
 * path; a second file that it needs (an external data file) it asks for by name, and `chain` finds it by policy.
 */

import type { ImageFile } from '../block/file.js';
import type { Layer, SectorSize } from '../block/source.js';
import { AsofError } from '../errors.js';
import { aff4 } from './aff4.js';
import { dmg } from './dmg.js';
import { ewf } from './ewf.js';
import { ewf2 } from './ewf2.js';
import type { Finding } from './finding.js';
import { foreignFormat } from './foreign.js';
import { parallels } from './parallels.js';
import { qcow1 } from './qcow1.js';
import { qcow2 } from './qcow2.js';
import { raw } from './raw.js';
import { splitRaw } from './split-raw.js';
import { vdi } from './vdi.js';
import { vhd } from './vhd.js';
import { vhdx } from './vhdx.js';
import { vmdk } from './vmdk.js';

/** "Not this format", "this format", and "this format, unreadable because …". An I/O error is thrown. */
export type Probe = 'no' | 'yes' | AsofError;

export interface ImageFormat {
  /** The word for it in `--format`, in `asof info` and in an image's statement of its parent's format. */
  readonly name: string;
  /** Other words for it that an image may state. */
  readonly aliases?: readonly string[];
  probe(file: ImageFile): Probe;
  /**
   * Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED, IMAGE_ENCRYPTED, IO, or what `companion` throws. The image does not
   * own `file`.
   */
  open(file: ImageFile, options: OpenOptions): Image;
}

export interface OpenOptions {
  /** Finds and opens, by policy, another file that the image names. The caller owns and closes it. */
  readonly companion: (name: string) => ImageFile;
}

/** A parent as the image writes it: nothing here has been believed yet. */
export interface ParentLink {
  readonly name: string;
  /** As the image states it; undefined where it does not. */
  readonly format: string | undefined;
  /** Further names for the same file, tried after `name`. */
  readonly others?: readonly string[];
  /**
   * Why `parent` is not the image that is meant, a sentence; undefined where it is. A file that is refused is passed
   * over, as another one of that name may be meant. Absent where the image says nothing but a name.
   */
  refuses?(parent: Image): string | undefined;
  /** The parent has no name: it is looked for by its identity. `may` is quick, and sorts out what cannot be it. */
  readonly byIdentity?: { may(file: ImageFile): boolean };
  /** What is worth knowing of `parent`, although it is the one that is meant. */
  notes?(parent: Image): readonly string[];
}

/** By what a child knows its parent. */
export interface Identity {
  readonly id: string;
  /** Changes when the content does; undefined where the format has none. */
  readonly state?: string | undefined;
  /** When the image says that it was made or changed. */
  readonly time?: Date | undefined;
}

/** A moment that an image keeps inside itself. */
export interface InternalSnapshot {
  readonly id: string;
  /** The tag that a user gave it; may be empty, and need not be unique. */
  readonly name: string;
  readonly time: Date;
  /** Bytes of the disk at that moment. */
  readonly size: number;
  /** Bytes of the virtual machine's saved state; 0 where there is none. */
  readonly vmStateSize: number;
  readonly layer: Layer;
}

/** An external file that holds the guest's data. */
export interface DataFile {
  /** As the image writes it. */
  readonly name: string;
  readonly file: ImageFile;
  /** The image promises that the file alone is a plain raw image of the disk. */
  readonly raw: boolean;
}

/** A digest or checksum of the disk, or of some of it, that an image carries, in lower-case hexadecimals. */
export interface StoredDigest {
  readonly algorithm: 'md5' | 'sha1' | 'sha256' | 'sha512' | 'blake2b512' | 'crc32';
  readonly value: string;
  /** Bytes behind the end of the disk that the digest covers, too: less than a sector. */
  readonly tail?: Uint8Array;
  /** What it covers, where that is not the disk: start and end of each run, bytes, in order. */
  readonly runs?: Float64Array;
  /** The image's word for what it covers, where that is not the disk. */
  readonly of?: string;
}

/** One member of a chain, opened. */
export interface Image {
  readonly file: ImageFile;
  readonly format: string;
  /** Bytes of the virtual disk. */
  readonly size: number;
  readonly sectorSize: SectorSize;
  readonly identity?: Identity | undefined;
  /** Words and `name=value` for `asof info`. */
  readonly features: readonly string[];
  /** The current state, without what lies below it. Closing it does nothing: the chain owns the files. */
  readonly layer: Layer;
  readonly snapshots: readonly InternalSnapshot[];
  readonly parent: ParentLink | undefined;
  readonly dataFile: DataFile | undefined;
  /** What the image says of itself and of how it came to be, for `asof info`: a name and a value each. */
  readonly metadata?: readonly (readonly [name: string, value: string])[];
  /** Of the current state. */
  readonly digests?: readonly StoredDigest[];
  /** What is wrong with the image although it could be opened, a sentence each. */
  readonly troubles: readonly string[];
  /** The doctor: what is wrong with this member alone, from its metadata; packed blocks are not unpacked. */
  check(): Iterable<Finding>;
}

/** In the order in which they are asked; raw recognises nothing and is taken by decision only. */
export const FORMATS: readonly ImageFormat[] = [
  qcow2,
  qcow1,
  vhd,
  vhdx,
  vdi,
  vmdk,
  ewf,
  ewf2,
  parallels,
  dmg,
  aff4,
  splitRaw,
  raw,
];

/** Throws IMAGE_UNSUPPORTED where no format has that name. */
export function formatNamed(name: string): ImageFormat {
  const format = FORMATS.find(one => one.name === name || one.aliases?.includes(name));
  if (format) return format;
  const known = FORMATS.map(one => one.name).join(', ');
  throw new AsofError('IMAGE_UNSUPPORTED', `the format ${JSON.stringify(name)} is none of ${known}`);
}

/**
 * The format that recognises `file`; undefined where none does.
 * Throws the reason where it is recognised and cannot be read, or IMAGE_UNSUPPORTED for a format that asof knows
 * by sight only: taken for raw, its metadata would be shown as a disk.
 */
export function recognise(file: ImageFile): ImageFormat | undefined {
  for (const format of FORMATS) {
    const answer = format.probe(file);
    if (answer === 'yes') return format;
    if (answer !== 'no') throw answer;
  }
  const foreign = foreignFormat(file);
  // Taken for raw, an image whose first bytes are damaged would show its tables as a disk.
  if (foreign === undefined && /\.qcow2?$/i.test(file.path)) {
    throw new AsofError(
      'IMAGE_CORRUPT',
      `${file.path} is named as a qcow2 image and bears no mark of one`,
      '--format raw shows the bytes of the file itself',
    );
  }
  if (foreign === undefined) return undefined;
  throw new AsofError(
    'IMAGE_UNSUPPORTED',
    `${file.path} is an image of the format ${foreign}, which asof cannot read`,
    '--format raw shows the bytes of the file itself',
  );
}
