/**
 * AFF4, the Advanced Forensic Format 4 (aff4/Standard, AFF4 Standard 1.0): a zip whose information.turtle says what is in it, an
 * image that is a map, and streams of packed chunks to which the map leads. Streams may lie in another container of the set.
 *
 * Container, map and indices are verified by the checksums of the zip when they are read. Chunks have none but what their
 * packing has; the digests of the streams cover them, and `asof check --deep` compares those.
 */
import { readdirSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import type { PackedExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { Aff4Map, type Runs, runsIn, type Target } from './aff4-map.js';
import { Aff4Stream, type StreamShape } from './aff4-stream.js';
import { parseTurtle, RDF_TYPE, type Statements, type Value } from './aff4-turtle.js';
import { looksLikeZip, type Member, Zip } from './aff4-zip.js';
import { examineBlocks } from './blocks.js';
import type { Image, ImageFormat, OpenOptions, StoredDigest } from './format.js';

const SCHEMA = 'http://aff4.org/Schema#';
const TURTLE = 'information.turtle';
/** Bytes of a chunk: one read of a hostile image allocates no more. */
const MOST_CHUNK = 32 * 2 ** 20;
/** Containers of a set that are looked into. */
const MOST_VOLUMES = 64;

/** By the names that the standard and its implementations give; undefined for plain chunks. */
const CODECS: ReadonlyMap<string, PackedExtent['codec'] | undefined> = new Map([
  ['http://code.google.com/p/snappy/', 'snappy'],
  ['https://github.com/google/snappy', 'snappy'],
  ['https://code.google.com/p/lz4/', 'lz4'],
  ['http://code.google.com/p/lz4/', 'lz4'],
  ['https://github.com/lz4/lz4', 'lz4'],
  ['https://www.ietf.org/rfc/rfc1950.txt', 'zlib'],
  ['http://www.ietf.org/rfc/rfc1950.txt', 'zlib'],
  ['https://tools.ietf.org/html/rfc1951', 'deflate'],
  ['http://tools.ietf.org/html/rfc1951', 'deflate'],
  [`${SCHEMA}NullCompressor`, undefined],
  [`${SCHEMA}compressionMethod/stored`, undefined],
]);

const ALGORITHMS: Readonly<Record<string, StoredDigest['algorithm']>> = {
  [`${SCHEMA}MD5`]: 'md5',
  [`${SCHEMA}SHA1`]: 'sha1',
  [`${SCHEMA}SHA256`]: 'sha256',
  [`${SCHEMA}SHA512`]: 'sha512',
  [`${SCHEMA}Blake2b`]: 'blake2b512',
};

/** What people wrote, and of the device. */
const NAMES: readonly (readonly [key: string, name: string])[] = [
  ['caseNumber', 'case'],
  ['caseName', 'case name'],
  ['caseDescription', 'description'],
  ['evidenceNumber', 'evidence'],
  ['examiner', 'examiner'],
  ['notes', 'notes'],
  ['diskMake', 'make'],
  ['diskModel', 'model'],
  ['diskSerial', 'serial'],
  ['diskDeviceName', 'device'],
  ['acquisitionCompletionState', 'acquisition'],
];

export const aff4: ImageFormat = {
  name: 'aff4',
  probe(file) {
    const named = /\.aff4$/i.test(file.path);
    if (!looksLikeZip(file)) return named ? strange(file) : 'no';
    try {
      return new Zip(file).members.has(TURTLE) ? 'yes' : named ? strange(file) : 'no';
    } catch (error) {
      if (!(error instanceof AsofError) || error.code === 'IO') throw error;
      // Another zip is raw; one whose directory is gone may have been an image.
      return named || file.read(0, 256).includes('aff4://') ? error : 'no';
    }
  },
  open(file, options): Image {
    const set = new ContainerSet(file, options);
    const image = theImage(set);
    const map = mapOf(set, image);
    const layer = new Aff4Map(file, map.size, map.runs, map.targets, map.gap);
    const { own } = set;
    return {
      file,
      format: 'aff4',
      size: map.size,
      sectorSize: own.number(image, 'blockSize') === 4096 ? 4096 : 512,
      features: [
        `containers=${set.containers.length}`,
        `streams=${map.streams.length}`,
        `compression=${[...new Set(map.streams.map(({ shape }) => shape.codec ?? 'none'))].join(',') || 'none'}`,
      ],
      layer,
      snapshots: [],
      parent: undefined,
      dataFile: undefined,
      metadata: [['image', image] as const, ...metadataOf(own.statements)],
      digests: map.digests,
      troubles: [],
      check: () => examineBlocks(file, layer, []),
    };
  },
};

const strange = (file: ImageFile) =>
  new AsofError(
    'IMAGE_CORRUPT',
    `${file.path} is named as an AFF4 image and is no container of one`,
    '--format raw shows the bytes of the file itself',
  );

/** A zip, and what its information.turtle says. */
class Container {
  readonly zip: Zip;
  readonly statements: Statements;
  /** Members by their full names. */
  readonly #members = new Map<string, Map<string, Member>>();

  constructor(file: ImageFile) {
    this.zip = new Zip(file);
    const member = this.zip.members.get(TURTLE);
    const text = member ? this.zip.read(member) : `${file.path}: it has no ${TURTLE}`;
    if (typeof text === 'string') throw new AsofError('IMAGE_CORRUPT', text);
    const statements = parseTurtle(text.toString('utf8'));
    if (!statements) throw new AsofError('IMAGE_CORRUPT', `${file.path}: its ${TURTLE} cannot be read`);
    this.statements = statements;
    for (const one of this.zip.members.values()) {
      const name = fullName(one.name, this.zip.comment);
      const slash = name.lastIndexOf('/');
      const folder = this.#members.get(name.slice(0, slash)) ?? new Map<string, Member>();
      folder.set(name.slice(slash + 1), one);
      this.#members.set(name.slice(0, slash), folder);
    }
  }

  /** Members of a stream or map. */
  membersOf(name: string): ReadonlyMap<string, Member> {
    return this.#members.get(name) ?? new Map();
  }

  values(subject: string, key: string): readonly Value[] {
    return this.statements.get(subject)?.get(key === 'a' ? RDF_TYPE : SCHEMA + key) ?? [];
  }

  is(subject: string, type: string): boolean {
    return this.values(subject, 'a').some(({ text }) => text === SCHEMA + type);
  }

  /** The one value, as a number; undefined where there is none. Throws IMAGE_CORRUPT or IMAGE_UNSUPPORTED. */
  number(subject: string, key: string): number | undefined {
    const [value, other] = this.values(subject, key);
    if (value === undefined) return undefined;
    const here = `${this.zip.file.path}: ${key} of ${subject}`;
    if (other || !/^\d{1,20}$/.test(value.text)) throw new AsofError('IMAGE_CORRUPT', `${here} is no number`);
    const number = Number(value.text);
    if (Number.isSafeInteger(number)) return number;
    throw new AsofError(
      'IMAGE_UNSUPPORTED',
      `${here} is ${value.text}: more than 2^53 bytes are not supported`,
    );
  }
}

/** Writers escape what a zip's name must not have, each as much as it likes; some leave the container's own name away. */
function fullName(name: string, volume: string): string {
  let decoded = name;
  try {
    decoded = decodeURIComponent(name);
  } catch {
    // Then it is none of those that are looked for.
  }
  return decoded.startsWith('aff4://') ? decoded : `${volume}/${decoded}`;
}

/** The named container, and the others of its set as they are needed. */
class ContainerSet {
  readonly own: Container;
  readonly containers: Container[];
  readonly #companion: OpenOptions['companion'];
  #names: string[] | undefined;

  constructor(file: ImageFile, { companion }: OpenOptions) {
    this.own = new Container(file);
    this.containers = [this.own];
    this.#companion = companion;
  }

  /** The container that says what `name` is and holds it; undefined where none does. */
  holder(name: string): Container | undefined {
    const holds = (container: Container) =>
      container.membersOf(name).size > 0 && container.values(name, 'chunkSize').length > 0;
    let found = this.containers.find(holds);
    while (!found) {
      const next = this.#next();
      if (!next) return undefined;
      if (holds(next)) found = next;
    }
    return found;
  }

  /** Another container beside the named one: of a name that begins alike. */
  #next(): Container | undefined {
    const { path } = this.own.zip.file;
    if (!this.#names) {
      const own = basename(path);
      const stem = own.replace(/(?:[._-]?\d+)?(?:\.aff4)$/i, '');
      const beside = (name: string) => name !== own && name.startsWith(stem) && /\.aff4$/i.test(name);
      this.#names = listed(dirname(path)).filter(beside).sort().slice(0, MOST_VOLUMES);
    }
    for (let name = this.#names.shift(); name !== undefined; name = this.#names.shift()) {
      try {
        const container = new Container(this.#companion(name));
        this.containers.push(container);
        return container;
      } catch (error) {
        // One that is damaged, or may not be opened, is none that helps.
        if (!(error instanceof AsofError)) throw error;
      }
    }
    return undefined;
  }
}

/** Names in a folder; none where it cannot be listed. */
function listed(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** The one image of a container. */
function theImage({ own }: ContainerSet): string {
  const images = [...own.statements.keys()].filter(
    name => own.is(name, 'Image') || own.is(name, 'DiskImage') || own.is(name, 'MemoryImage'),
  );
  const { path } = own.zip.file;
  const [image] = images;
  if (image !== undefined && images.length === 1) return image;
  if (image === undefined && [...own.statements.keys()].some(name => own.is(name, 'FileImage')))
    throw new AsofError('IMAGE_UNSUPPORTED', `${path} is logical evidence: it holds files, and no disk`);
  throw new AsofError(
    'IMAGE_UNSUPPORTED',
    `${path} holds ${images.length} images of disks, where one is read`,
  );
}

interface OpenedMap {
  readonly size: number;
  readonly runs: Runs;
  readonly targets: readonly Target[];
  readonly gap: Target;
  readonly streams: readonly Aff4Stream[];
  readonly digests: readonly StoredDigest[];
}

/** Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED, IMAGE_ENCRYPTED, PARENT_MISSING, or IO. */
function mapOf(set: ContainerSet, image: string): OpenedMap {
  const { own } = set;
  const { path } = own.zip.file;
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${path}: ${what}`);
  const [data, other] = own.values(image, 'dataStream');
  if (!data || other) throw corrupt('the image has no one stream of data');
  const name = data.text;
  const streams = new Map<string, Aff4Stream>();
  const open = (stream: string): Target => {
    const known = streams.get(stream) ?? streamOf(set, stream);
    streams.set(stream, known);
    return { kind: 'stream', stream: known };
  };
  if (own.is(name, 'EncryptedStream'))
    throw new AsofError('IMAGE_ENCRYPTED', `${path}: the image is encrypted`);
  const stated = own.number(image, 'size');
  if (!own.is(name, 'Map')) {
    const stream = open(name);
    const size = streams.get(name)!.shape.size;
    if (stated !== undefined && stated !== size)
      throw corrupt(`the image has ${stated} bytes, its stream ${size}`);
    const runs = { count: 1, start: Float64Array.of(0), end: Float64Array.of(size) };
    const whole = { ...runs, offset: Float64Array.of(0), target: Uint32Array.of(0) };
    const digests = digestsOf(set, name, undefined);
    return { size, runs: whole, targets: [stream], gap: stream, streams: [...streams.values()], digests };
  }
  const size = own.number(name, 'size') ?? stated;
  if (size === undefined || size === 0) throw corrupt('nothing says how large the image is');
  if (stated !== undefined && stated !== size)
    throw corrupt(`the image has ${stated} bytes, its map ${size}`);
  const members = own.membersOf(name);
  const read = (part: string): Buffer => {
    const member = members.get(part);
    const bytes = member ? own.zip.read(member) : `${path}: the map has no ${part}`;
    if (typeof bytes === 'string') throw new AsofError('IMAGE_CORRUPT', bytes);
    return bytes;
  };
  const names = read('idx')
    .toString('utf8')
    .split('\n')
    .filter(one => one !== '');
  const targets = names.map(one => word(own.zip.file, one) ?? open(one));
  const runs = runsIn(read('map'), size, targets.length);
  if (typeof runs === 'string') throw corrupt(`the map cannot be believed: ${runs}`);
  const [fill] = own.values(name, 'mapGapDefaultStream');
  const gap = word(own.zip.file, fill?.text ?? `${SCHEMA}Zero`);
  if (!gap) throw corrupt(`the map fills its gaps from ${JSON.stringify(fill?.text)}`);
  const digests = [...streams.keys()].flatMap(one => {
    const covered = coverage(set, one, names.indexOf(one), runs);
    return covered ? digestsOf(set, one, covered) : [];
  });
  return { size, runs, targets, gap, streams: [...streams.values()], digests };
}

/** A stream that is no data but a word. */
function word(file: ImageFile, name: string): Target | undefined {
  if (!name.startsWith(SCHEMA)) return undefined;
  const short = name.slice(SCHEMA.length);
  if (short === 'Zero') return { kind: 'zero' };
  if (short === 'UnreadableData')
    return { kind: 'bad', why: 'it could not be read when the image was made: the image says so itself' };
  if (short === 'UnknownData') return { kind: 'bad', why: 'the image does not hold it: it was not acquired' };
  const byte = /^SymbolicStream([0-9A-F]{2})$/i.exec(short)?.[1];
  if (byte === undefined)
    return { kind: 'bad', why: `the image says ${JSON.stringify(short)} of it, which is not known` };
  const value = Number.parseInt(byte, 16);
  if (value === 0) return { kind: 'zero' };
  // A run of the disk lies in a file: one byte of it, any that has the value, stands for the run.
  const at = file.read(0, 2 ** 20).indexOf(value);
  if (at >= 0) return { kind: 'fill', file, at };
  return { kind: 'bad', why: `it is filled with 0x${byte}, which cannot be shown` };
}

function streamOf(set: ContainerSet, name: string): Aff4Stream {
  const { path } = set.own.zip.file;
  if (set.own.is(name, 'EncryptedStream'))
    throw new AsofError('IMAGE_ENCRYPTED', `${path}: ${name} is encrypted`);
  if (set.own.is(name, 'Map'))
    throw new AsofError('IMAGE_UNSUPPORTED', `${path}: a map leads to another map, ${name}`);
  const container = set.holder(name);
  if (!container) {
    throw new AsofError(
      'PARENT_MISSING',
      `${path} needs the stream ${name}, which lies in another container of its set; none beside it has it`,
      'put all containers of the set into one folder',
    );
  }
  const value = (key: string): number => {
    const number = container.number(name, key);
    if (number === undefined || number === 0)
      throw new AsofError('IMAGE_CORRUPT', `${container.zip.file.path}: ${name} does not say its ${key}`);
    return number;
  };
  const [method] = container.values(name, 'compressionMethod');
  if (method && !CODECS.has(method.text)) {
    const what = `${container.zip.file.path}: chunks are packed by ${JSON.stringify(method.text)}`;
    throw new AsofError('IMAGE_UNSUPPORTED', what);
  }
  const perBevy =
    container.values(name, 'chunksInSegment').length > 0 ? 'chunksInSegment' : 'chunksPerSegment';
  const shape: StreamShape = {
    size: container.number(name, 'size') ?? 0,
    chunk: value('chunkSize'),
    perBevy: value(perBevy),
    codec: CODECS.get(method?.text ?? `${SCHEMA}NullCompressor`),
  };
  if (shape.chunk > MOST_CHUNK) {
    const what = `${container.zip.file.path}: chunks of ${shape.chunk} bytes are larger than ${MOST_CHUNK}`;
    throw new AsofError('IMAGE_UNSUPPORTED', what);
  }
  return new Aff4Stream(container.zip, container.membersOf(name), shape);
}

/** The runs of the disk that are the stream from its start to its end; undefined where they are not, as a map may. */
function coverage(set: ContainerSet, name: string, target: number, runs: Runs): Float64Array | undefined {
  const size = set.holder(name)?.number(name, 'size');
  const covered: number[] = [];
  let done = 0;
  for (let i = 0; i < runs.count; i++) {
    if (runs.target[i] !== target) continue;
    if (runs.offset[i] !== done) return undefined;
    done += runs.end[i]! - runs.start[i]!;
    if (covered.at(-1) === runs.start[i]) covered[covered.length - 1] = runs.end[i]!;
    else covered.push(runs.start[i]!, runs.end[i]!);
  }
  return done === size && done > 0 ? Float64Array.from(covered) : undefined;
}

/** Of a stream; `runs` undefined where the stream is the disk. */
function digestsOf(set: ContainerSet, name: string, runs: Float64Array | undefined): StoredDigest[] {
  const holder = set.holder(name);
  if (!holder) return [];
  return holder.values(name, 'hash').flatMap(({ text, type }): StoredDigest[] => {
    const algorithm = ALGORITHMS[type ?? ''];
    if (algorithm === undefined) return [];
    return [{ algorithm, value: text.toLowerCase(), ...(runs ? { runs, of: name } : {}) }];
  });
}

function metadataOf(statements: Statements): (readonly [string, string])[] {
  return NAMES.flatMap(([key, name]) => {
    const values = [...statements.values()].flatMap(of => of.get(SCHEMA + key) ?? []);
    return [...new Set(values.map(({ text }) => text.trim()))]
      .filter(text => text !== '')
      .map(text => [name, text] as const);
  });
}
