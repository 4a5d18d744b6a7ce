/**
 * Two trees of files side by side. Files of one size are read and compared, unless inode, size and both times are the same: the time
 * of the last change is not for programs to set. Symbolic links are not followed. Names are bytes.
 */
import { constants } from 'node:fs';
import { type FileHandle, lstat, open, readdir, readlink } from 'node:fs/promises';
import { errnoOf } from './errors.js';
import { loadAddon } from './native.js';

/** Bytes of each file that are read at once. */
const PIECE = 2 ** 20;

export interface ComparedFile {
  /** From the roots on. */
  readonly path: string;
  readonly kind: 'equal' | 'differs' | 'only-left' | 'only-right' | 'unreadable';
  /**
   * Of what differs: `type`, `size`, `content`, `target` (of a link), `device`, `mode`, `owner`, `attributes` (ACLs among
   * them), `time`; or why it cannot be read.
   */
  readonly why: readonly string[];
  /** Bytes; null where it is not there or is no file. */
  readonly left: number | null;
  readonly right: number | null;
}

type Stat = Awaited<ReturnType<typeof statOf>>;

const statOf = (path: Buffer) => lstat(path, { bigint: true });

/** In the order of names, folders before what is in them. `all`: what is equal too. `bytes`: no file is taken for equal unread. */
export async function* compareFiles(
  left: string,
  right: string,
  options: { readonly all: boolean; readonly bytes: boolean },
): AsyncGenerator<ComparedFile, void, undefined> {
  yield* folder(Buffer.from(left), Buffer.from(right), Buffer.from('/'), options);
}

async function* folder(
  left: Buffer,
  right: Buffer,
  path: Buffer,
  options: { readonly all: boolean; readonly bytes: boolean },
): AsyncGenerator<ComparedFile, void, undefined> {
  let names: Map<string, [boolean, boolean]>;
  try {
    names = await namesIn(left, right);
  } catch (error) {
    yield { path: path.toString(), kind: 'unreadable', why: [errnoOf(error)], left: null, right: null };
    return;
  }
  // Latin-1 keeps each byte, and orders as they do.
  for (const [name, [here, there]] of [...names].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const [a, b] = [below(left, name), below(right, name)];
    const full = below(path, name);
    const shown = full.toString();
    let one: Stat | undefined;
    let other: Stat | undefined;
    let result: ComparedFile;
    try {
      one = here ? await statOf(a) : undefined;
      other = there ? await statOf(b) : undefined;
      result = { path: shown, ...(await judge(a, b, one, other, options.bytes)) };
    } catch (error) {
      if (!errnoOf(error)) throw error;
      result = {
        path: shown,
        kind: 'unreadable',
        why: [errnoOf(error)],
        left: size(one),
        right: size(other),
      };
    }
    if (options.all || result.kind !== 'equal') yield result;
    if (one?.isDirectory() && other?.isDirectory()) yield* folder(a, b, full, options);
  }
}

async function namesIn(left: Buffer, right: Buffer): Promise<Map<string, [boolean, boolean]>> {
  const found = new Map<string, [boolean, boolean]>();
  const list = async (path: Buffer) =>
    (await readdir(path, { encoding: 'buffer' })).map(name => name.toString('latin1'));
  for (const name of await list(left)) found.set(name, [true, false]);
  for (const name of await list(right)) found.set(name, [found.has(name), true]);
  return found;
}

function below(folder: Buffer, name: string): Buffer {
  const slash = folder.at(-1) === 0x2f ? '' : '/';
  return Buffer.concat([folder, Buffer.from(slash + name, 'latin1')]);
}

const size = (stat: Stat | undefined) => (stat?.isFile() ? Number(stat.size) : null);

async function judge(
  left: Buffer,
  right: Buffer,
  one: Stat | undefined,
  other: Stat | undefined,
  bytes: boolean,
): Promise<Omit<ComparedFile, 'path'>> {
  const sizes = { left: size(one), right: size(other) };
  if (!one || !other) return { kind: one ? 'only-left' : 'only-right', why: [], ...sizes };
  const type = BigInt(constants.S_IFMT);
  const why: string[] = [];
  const known =
    one.ino === other.ino &&
    one.size === other.size &&
    one.mtimeNs === other.mtimeNs &&
    one.ctimeNs === other.ctimeNs;
  if ((one.mode & type) !== (other.mode & type)) why.push('type');
  else if (one.isFile()) {
    if (one.size !== other.size) why.push('size');
    else if ((bytes || !known) && !(await sameContent(left, right))) why.push('content');
  } else if (one.isSymbolicLink()) {
    const [a, b] = await Promise.all([left, right].map(path => readlink(path, { encoding: 'buffer' })));
    if (!a!.equals(b!)) why.push('target');
  } else if (one.rdev !== other.rdev) why.push('device');
  if ((one.mode & ~type) !== (other.mode & ~type)) why.push('mode');
  if (one.uid !== other.uid || one.gid !== other.gid) why.push('owner');
  if ((bytes || !known) && !sameAttributes(left, right)) why.push('attributes');
  // That of a folder tells no more than what is in it.
  if (!one.isDirectory() && one.mtimeNs !== other.mtimeNs) why.push('time');
  return { kind: why.length > 0 ? 'differs' : 'equal', why, ...sizes };
}

/** Labels of security modules, flags and ACLs are attributes too. */
function sameAttributes(left: Buffer, right: Buffer): boolean {
  const [a, b] = [left, right].map(path => {
    const list = loadAddon().fileAttributes(path);
    const pairs: string[] = [];
    for (let i = 0; i < list.length; i += 2)
      pairs.push(`${list[i]!.toString('latin1')}=${list[i + 1]!.toString('base64')}`);
    return pairs.sort().join('\0');
  });
  return a === b;
}

async function sameContent(left: Buffer, right: Buffer): Promise<boolean> {
  const files: FileHandle[] = [];
  try {
    for (const path of [left, right]) files.push(await open(path, constants.O_RDONLY | constants.O_NOFOLLOW));
    const buffers = [Buffer.allocUnsafe(PIECE), Buffer.allocUnsafe(PIECE)];
    for (let offset = 0; ; ) {
      const [a, b] = await Promise.all(files.map((file, i) => fill(file, buffers[i]!, offset)));
      if (a !== b || buffers[0]!.compare(buffers[1]!, 0, b, 0, a) !== 0) return false;
      if (a! < PIECE) return true;
      offset += a!;
    }
  } finally {
    for (const file of files) await file.close();
  }
}

async function fill(file: FileHandle, buffer: Buffer, offset: number): Promise<number> {
  let done = 0;
  while (done < buffer.length) {
    const { bytesRead } = await file.read(buffer, done, buffer.length - done, offset + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}
