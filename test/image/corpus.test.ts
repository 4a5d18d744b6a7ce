/**
 * Foreign images: a folder of real files with their digests, named by ASOF_CORPUS, beside the
 * repository where it is not named. Absent, the test is skipped visibly.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import { AsofError } from '../../src/errors.js';
import { type Chain, openChain } from '../../src/image/chain.js';
import { findPoint, points } from '../../src/image/points.js';
import { Engine } from '../../src/native.js';
import { folder } from './peer.js';

interface Case {
  path: string;
  sub: string | null;
  format: string;
  size: number | null;
  sha256: string | null;
  verdict: string | null;
}

/** As the collection names them. */
const FORMATS = new Set([
  'raw',
  'qcow2',
  'qcow',
  'vhd',
  'vhdx',
  'vdi',
  'ewf',
  'vmdk',
  'vss',
  'parallels',
  'dmg',
]);

/** Known by sight only. */
const FOREIGN = new Set(['aff', 'mrimg']);

/** What the collection fills in where the image says that it has no data; for us that is bad. In tiles of 1 MiB. */
const FILL: Readonly<Record<string, string>> = {
  'aff4/Base-Allocated.aff4': 'UNKNOWN',
  'aff4/Base-Linear-ReadError.aff4': 'UNREADABLEDATA',
};
const TILE = 2 ** 20;

/** What is refused by name although somebody can read it. */
const UNREAD = new Set(['dmg/synthetic.sparseimage']);

const corpus = process.env['ASOF_CORPUS'] ?? new URL('../../../../shared/corpus', import.meta.url).pathname;

if (!existsSync(join(corpus, 'unpack.py'))) {
  t.test('the corpus', { skip: `nothing at ${corpus}; ASOF_CORPUS names it` }, async () => {});
} else {
  const dir = folder(t);
  const { status, stdout } = spawnSync('python3', [join(corpus, 'unpack.py'), dir], { encoding: 'utf8' });
  t.equal(status, 0, stdout);
  const cases = JSON.parse(readFileSync(join(dir, 'cases.json'), 'utf8')) as Case[];
  const engine = new Engine({ cacheBytes: 2 ** 26, mapBytes: 2 ** 24, threads: 2 });
  t.teardown(() => engine.close());
  const ours = cases.filter(
    ({ path, sub, format }) => FORMATS.has(format) || (/\.qcow2$/.test(path) && !sub),
  );
  t.ok(ours.length > 12);
  for (const one of ours) {
    t.test(`${one.path} ${one.sub ?? ''}`, async t => {
      let chain: Chain;
      try {
        chain = openChain(join(dir, one.path));
      } catch (error) {
        if (!(error instanceof AsofError)) throw error;
        t.ok(/^REFUSE|or refuse/.test(one.verdict ?? '') || UNREAD.has(one.path), error.message);
        return;
      }
      t.teardown(() => chain.close());
      t.not(one.verdict, 'REFUSE', 'it must be refused');
      const all = points(chain);
      const point = one.sub ? findPoint(all, one.sub) : all[0]!;
      if (one.size !== null) t.equal(point.size, one.size);
      const fill = FILL[one.path];
      if (one.sha256 !== null) t.equal(await digest(engine, point.open(), fill), one.sha256);
      if (fill) t.ok([...point.open().extents(0, point.size)].some(({ kind }) => kind === 'bad'));
    });
  }
  for (const { path } of cases.filter(({ format }) => FOREIGN.has(format))) {
    t.test(`${path} is refused by name`, async t => {
      t.throws(() => openChain(join(dir, path)), {
        code: 'IMAGE_UNSUPPORTED',
        message: /of the format (aff|mrimg)/,
      });
    });
  }
}

async function digest(
  engine: Engine,
  source: ReturnType<ReturnType<typeof points>[0]['open']>,
  fill?: string,
): Promise<string> {
  const hash = createHash('sha256');
  if (fill !== undefined) return filled(engine, source, Buffer.alloc(TILE, fill));
  const disk = new Disk(engine, source);
  for (let offset = 0; offset < disk.size; offset += 2 ** 22) {
    hash.update(await disk.read(offset, Math.min(2 ** 22, disk.size - offset)));
  }
  disk.close();
  return hash.digest('hex');
}

/** With what `tile` has at the same place of its tile where a run is bad. */
async function filled(
  engine: Engine,
  source: ReturnType<ReturnType<typeof points>[0]['open']>,
  tile: Buffer,
): Promise<string> {
  const runs = [...source.extents(0, source.size)];
  const disk = new Disk(engine, source);
  const hash = createHash('sha256');
  let offset = 0;
  for (const { kind, length } of runs) {
    for (const end = offset + length; offset < end; ) {
      const piece = Math.min(end - offset, TILE - (offset % TILE));
      const at = offset % TILE;
      hash.update(kind === 'bad' ? tile.subarray(at, at + piece) : await disk.read(offset, piece));
      offset += piece;
    }
  }
  disk.close();
  return hash.digest('hex');
}
