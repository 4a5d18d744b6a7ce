/**
 * A chain opens what policy allows and nothing else, whatever the images say.
 */
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AsofError, type ErrorCode } from '../../src/errors.js';
import { type ChainOptions, openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { convert, folder, noise, qemuImg, qemuIo } from './peer.js';
import { readAll } from './reader.js';

type Test = Pick<typeof t, 'same' | 'equal' | 'match' | 'fail' | 'ok'>;

const SIZE = '1049088';

function image(path: string, ...options: string[]): string {
  qemuImg('create', '-q', '-f', 'qcow2', ...options, path, SIZE);
  return path;
}

/** An overlay whose parent's name is written without the peer looking at it. */
function overlay(path: string, parent: string, format = 'qcow2'): string {
  return image(path, '-u', '-b', parent, ...(format ? ['-F', format] : []));
}

function opens(t: Test, path: string, options: ChainOptions, members: string[]): void {
  const chain = openChain(path, options);
  t.same(
    chain.members.map(({ file }) => file.path),
    members,
  );
  chain.close();
}

/** The files in the tests' folders that this process holds open. */
function openImages(): string[] {
  return readdirSync('/proc/self/fd').flatMap(fd => {
    try {
      const path = readlinkSync(`/proc/self/fd/${fd}`);
      return path.includes('/asof-image-') ? [path] : [];
    } catch {
      return []; // closed meanwhile: the listing's own
    }
  });
}

function refuses(
  t: Test,
  path: string,
  code: ErrorCode,
  words: RegExp,
  options: ChainOptions = {},
): AsofError {
  try {
    openChain(path, options).close();
  } catch (error) {
    if (!(error instanceof AsofError)) throw error;
    t.equal(error.code, code, error.message);
    t.match(error.message, words);
    t.same(openImages(), [], 'nothing stays open');
    return error;
  }
  t.fail(`${path} opens`);
  return new AsofError(code, '');
}

t.test('a parent is found beside its child, then in search folders', async t => {
  const dir = folder(t);
  const elsewhere = folder(t);
  const base = image(join(dir, 'base.qcow2'));
  const top = overlay(join(dir, 'top.qcow2'), 'base.qcow2');
  opens(t, top, {}, [top, base]);
  const absolute = overlay(join(dir, 'absolute.qcow2'), '/no/such/folder/base.qcow2');
  opens(t, absolute, {}, [absolute, base]);
  const upward = overlay(join(dir, 'upward.qcow2'), '../../../../etc/base.qcow2');
  opens(t, upward, {}, [upward, base]);
  const scheme = overlay(join(dir, 'scheme.qcow2'), 'base.qcow2');
  opens(t, scheme, {}, [scheme, base]);

  renameSync(base, join(elsewhere, 'base.qcow2'));
  const error = refuses(t, top, 'PARENT_MISSING', /top\.qcow2 needs its parent "base\.qcow2"/);
  t.match(error.message, join(dir, 'base.qcow2'), 'says where it was looked for');
  t.match(error.hint, '--search');
  opens(t, top, { search: [elsewhere] }, [top, join(elsewhere, 'base.qcow2')]);

  mkdirSync(join(dir, 'sub'));
  const below = image(join(dir, 'sub', 'low.qcow2'));
  const relative = overlay(join(dir, 'relative.qcow2'), 'sub/low.qcow2');
  opens(t, relative, {}, [relative, below]);
});

t.test('the folder of the named file counts for its whole chain', async t => {
  const dir = folder(t);
  mkdirSync(join(dir, 'sub'));
  const root = image(join(dir, 'root.qcow2'));
  const middle = overlay(join(dir, 'sub', 'middle.qcow2'), '../root.qcow2');
  const top = overlay(join(dir, 'top.qcow2'), 'sub/middle.qcow2');
  opens(t, top, {}, [top, middle, root]);
});

t.test('a link that leads out of the folders is not followed', async t => {
  const dir = folder(t);
  const secret = folder(t);
  const target = image(join(secret, 'secret.qcow2'));
  symlinkSync(target, join(dir, 'base.qcow2'));
  const top = overlay(join(dir, 'top.qcow2'), 'base.qcow2');
  const error = refuses(t, top, 'PARENT_FORBIDDEN', /outside every allowed folder/);
  t.match(error.hint, `--search ${secret}`);
  opens(t, top, { search: [secret] }, [top, target]);
  symlinkSync(secret, join(dir, 'folder'));
  const through = overlay(join(dir, 'through.qcow2'), 'folder/secret.qcow2');
  refuses(t, through, 'PARENT_FORBIDDEN', /outside every allowed folder/);
});

t.test('a named file may be a link: both its folders count', async t => {
  const dir = folder(t);
  const links = folder(t);
  const base = image(join(dir, 'base.qcow2'));
  overlay(join(dir, 'top.qcow2'), 'base.qcow2');
  const link = join(links, 'link.qcow2');
  symlinkSync(join(dir, 'top.qcow2'), link);
  opens(t, link, {}, [link, base]);
});

t.test('names that are no files are refused', async t => {
  const dir = folder(t);
  for (const name of [
    'nbd://127.0.0.1:1/x',
    'json:{"driver":"null-co"}',
    'ssh://host/x',
    'fat:rw:/etc',
    'blkdebug::x',
  ]) {
    // The peer will not write some of these names, so they are put over one as long.
    const path = join(dir, 'top.qcow2');
    overlay(path, 'x'.repeat(name.length));
    const fd = openSync(path, 'r+');
    writeSync(fd, name, placeOfName(path), 'latin1');
    closeSync(fd);
    refuses(t, path, 'PARENT_FORBIDDEN', /protocol/);
  }
  const up = overlay(join(dir, 'up.qcow2'), '..');
  refuses(t, up, 'PARENT_FORBIDDEN', /folder/);
});

/** Where the name of the parent stands. */
function placeOfName(path: string): number {
  return Number(readFileSync(path).readBigUInt64BE(8));
}

t.test('cycles end', async t => {
  const dir = folder(t);
  const a = overlay(join(dir, 'a.qcow2'), 'b.qcow2');
  overlay(join(dir, 'b.qcow2'), 'a.qcow2');
  refuses(t, a, 'CHAIN_CYCLE', /already a member/);
  const self = overlay(join(dir, 'self.qcow2'), 'self.qcow2');
  refuses(t, self, 'CHAIN_CYCLE', /already a member/);
  // The same name in another folder is another file.
  const other = folder(t);
  const base = image(join(other, 'self.qcow2'));
  opens(t, self, { search: [other] }, [self, base]);
});

// Two bases of one name: an overlay that names one of them by its whole path was read over the one beside it, although
// the named one lay in a folder that was allowed.
t.test('a base that is named by its path comes before another of its name', async t => {
  const dir = folder(t);
  const elsewhere = folder(t);
  const meant = image(join(elsewhere, 'base.qcow2'));
  const beside = image(join(dir, 'base.qcow2'));
  const top = overlay(join(dir, 'top.qcow2'), meant);
  opens(t, top, { search: [elsewhere] }, [top, meant]);
  opens(t, top, {}, [top, beside]);
  const chain = openChain(top);
  t.match(
    [...check(chain)].map(({ what }) => what),
    [/names its parent .*, and .* was taken for it/],
    'and the doctor says so where it is not the one',
  );
  chain.close();
});

t.test('the stated format of a parent is honoured', async t => {
  const dir = folder(t);
  const base = image(join(dir, 'base.img'));
  qemuIo(base, ['write -P 1 0 64k']);
  for (const format of ['raw', 'qcow2']) {
    const top = overlay(join(dir, `${format}.qcow2`), 'base.img', format);
    const chain = openChain(top);
    t.equal(chain.members[1]!.format, format);
    t.ok(readAll(points(chain)[0]!.open()).bytes.equals(convert(top)), `${format}: the peer's bytes`);
    chain.close();
  }
  // The peer, too, recognises a parent of no stated format; raw it takes by default, we do not.
  const silent = join(dir, 'silent.qcow2');
  copyFileSync(overlay(join(dir, 'x.qcow2'), 'base.img', 'qcow2'), silent);
  eraseFormat(silent);
  opens(t, silent, {}, [silent, base]);
  writeFileSync(base, noise(1, 1 << 20));
  const error = refuses(t, silent, 'FORMAT_UNKNOWN', /does not state the format/);
  t.match(error.hint, '--parent-format raw');
  opens(t, silent, { parentFormat: 'raw' }, [silent, base]);
  const foreign = overlay(join(dir, 'foreign.qcow2'), 'base.img', 'qed');
  refuses(t, foreign, 'IMAGE_UNSUPPORTED', /"qed"/);
});

/** Turns the header extension of the backing format into one that nobody knows. */
function eraseFormat(path: string): void {
  const at = readFileSync(path).indexOf(Buffer.from('e2792aca', 'hex'));
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.from('12345678', 'hex'), 0, 4, at);
  closeSync(fd);
}

t.test('a named file that nothing recognises is raw; one of a known other format is not', async t => {
  const dir = folder(t);
  const path = join(dir, 'disk');
  writeFileSync(path, noise(1, 1000));
  const chain = openChain(path);
  t.equal(chain.members[0]!.format, 'raw');
  t.equal(chain.members[0]!.size, 1000, 'the size is the exact one of the file');
  chain.close();
  for (const format of ['qed']) {
    const foreign = join(dir, `disk.${format}`);
    qemuImg('create', '-q', '-f', format, foreign, '1M');
    refuses(t, foreign, 'IMAGE_UNSUPPORTED', /cannot read/);
    openChain(foreign, { format: 'raw' }).close();
  }
  refuses(t, join(dir, 'none'), 'NOT_FOUND', /does not exist/);
  refuses(t, dir, 'IO', /neither a regular file/);
  refuses(t, path, 'IMAGE_CORRUPT', /not a qcow2/, { format: 'qcow2' });
  refuses(t, path, 'IMAGE_UNSUPPORTED', /none of/, { format: 'nonsense' });
});

t.test('long chains open and read; endless ones do not', async t => {
  const dir = folder(t);
  const blank = readFileSync(overlay(join(dir, 'blank.qcow2'), '0000.qcow2'));
  const name = (i: number) => join(dir, `${String(i).padStart(4, '0')}.qcow2`);
  image(name(0));
  qemuIo(name(0), ['write -P 7 0 1M']);
  const at = blank.indexOf('0000.qcow2');
  for (let i = 1; i <= 1024; i++) {
    blank.write(`${String(i - 1).padStart(4, '0')}.qcow2`, at, 'latin1');
    writeFileSync(name(i), blank);
  }
  const chain = openChain(name(999));
  t.equal(chain.members.length, 1000);
  const { bytes, bad } = readAll(points(chain)[0]!.open());
  t.same(bad, []);
  t.equal(
    bytes.subarray(0, 1 << 20).findIndex(byte => byte !== 7),
    -1,
  );
  chain.close();
  refuses(t, name(1024), 'CHAIN_TOO_DEEP', /more than 1024/);
});

t.test('external data files come from the allowed folders only', async t => {
  const dir = folder(t);
  const elsewhere = folder(t);
  for (const raw of ['off', 'on']) {
    const top = join(dir, `data-${raw}.qcow2`);
    const data = join(dir, `data-${raw}.raw`);
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${data},data_file_raw=${raw}`, top, SIZE);
    qemuIo(top, ['write -P 1 0 100k', 'write -P 2 700k 1k', `write -z 200k 64k`]);
    const bytes = convert(top);
    const chain = openChain(top);
    t.same(chain.members[0]!.dataFile?.raw, raw === 'on');
    const ours = readAll(points(chain)[0]!.open());
    t.same(ours.bad, []);
    t.ok(ours.bytes.equals(bytes), `raw ${raw}: the peer's bytes`);
    t.equal(chain.files.length, 2);
    chain.close();
    renameSync(data, join(elsewhere, `data-${raw}.raw`));
    refuses(t, top, 'PARENT_MISSING', /data file/);
    opens(t, top, { search: [elsewhere] }, [top]);
    symlinkSync(join(elsewhere, `data-${raw}.raw`), data);
    refuses(t, top, 'PARENT_FORBIDDEN', /outside every allowed folder/);
  }
});
