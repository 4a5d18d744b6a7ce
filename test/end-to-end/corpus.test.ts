/**
 * Images that other programs have made, with the digest that several readers agree on. The collection is not part
 * of the repository: ASOF_CORPUS names its folder, else it is looked for beside the repository.
 */
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { attempt, missing, run } from '../peers.js';
import { asof, digest, mount, points, scratch } from './mounted.js';

const CORPUS =
  process.env['ASOF_CORPUS'] ?? fileURLToPath(new URL('../../../../shared/corpus', import.meta.url));

/** A row of manifest.tsv: where the file is, its format, and the digest of its disk or what must happen. */
interface Case {
  /** Path below CORPUS; behind a `#` the member of a tar archive. */
  readonly file: string;
  readonly format: string;
  readonly features: string;
  readonly expected: string;
}

const skip = existsSync(join(CORPUS, 'manifest.tsv'))
  ? missing(['xz', 'tar'], ['fuse'])
  : `no collection of images at ${CORPUS}`;
const cases = skip ? [] : await readCases();

t.test('the collection is there', { skip }, async t => {
  t.ok(cases.length > 0, `${cases.length} cases`);
});

for (const one of cases) {
  t.test(`${one.file} (${one.features})`, async t => {
    const file = await unpack(one.file, await scratch(t));
    if (/^[0-9a-f]{64}$/.test(one.expected)) {
      const mounted = await mount(t, file);
      t.equal(await digest(join(mounted, 'disk')), one.expected, 'the digest of the disk');
      const snapshot = /internal snapshot (\S+) = (\S+)/.exec(one.features);
      if (snapshot) {
        const point = (await points(file)).find(({ name }) => name === snapshot[1]);
        t.equal(
          await digest(join(mounted, point?.moment ?? 'missing', 'disk')),
          cases.find(({ file }) => file.endsWith(`#${snapshot[2]}`))?.expected,
          'the digest of the snapshot',
        );
      }
      return;
    }
    const { code, stderr } = await asof('check', file);
    t.ok(code === 2 || code === 3 || one.expected === 'REFUSE or bounded', `ends with ${code}`);
    t.notMatch(stderr, /^ {4}at /m, 'in words, without a stack');
  });
}

async function readCases(): Promise<Case[]> {
  const [head = '', ...rows] = (await readFile(join(CORPUS, 'manifest.tsv'), 'utf8')).trimEnd().split('\n');
  const names = head.split('\t');
  const all = rows.map(row => {
    const cells = row.split('\t');
    const cell = (name: string) => cells[names.indexOf(name)] ?? '';
    return {
      file: cell('file'),
      format: cell('format'),
      features: cell('features'),
      expected: cell('raw_sha256'),
    };
  });
  const read = /^(raw|qcow2?|vhdx?|vdi|ewf|vmdk|parallels|dmg|aff4)$/;
  // What an image does not hold is filled in by the collection, and an error here; sparse images are refused.
  const unlike = /UnknownData|UnreadableData|sparseimage/;
  const ours = all.filter(
    ({ file, format, features }) => read.test(format) && !file.includes('@') && !unlike.test(features),
  );
  // Of raw and qcow2 all; of the others one of a kind, as test/image/corpus.test.ts reads every image without a mount.
  const kinds = new Set<string>();
  return ours.filter(({ format, features, expected }) => {
    const kind = `${format} ${features.split(/[ ,]/, 1)[0]} ${expected.length}`;
    const isNew = !kinds.has(kind);
    kinds.add(kind);
    return isNew || /^(raw|qcow2?)$/.test(format);
  });
}

/** Copies the case and the files beside it to `folder`, unpacked; the path of the case's own file. */
async function unpack(name: string, folder: string): Promise<string> {
  const [archive = '', member] = name.split('#');
  if (member) {
    await run('tar', ['-xJf', join(CORPUS, archive), '-C', folder]);
    return join(folder, member);
  }
  const from = dirname(join(CORPUS, archive));
  await mkdir(folder, { recursive: true });
  const stem = basename(archive).split('.')[0]!;
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const neighbour = entry.name;
    // A chain or the segments of a disk lie together; other cases of the folder are left alone.
    if (!entry.isFile() || !neighbour.startsWith(stem.split('-')[0]!)) continue;
    const target = join(folder, neighbour.replace(/\.xz$/, ''));
    if (!neighbour.endsWith('.xz')) await copyFile(join(from, neighbour), target);
    else await writeFile(target, (await attempt('xz', ['-dc', join(from, neighbour)])).stdout);
  }
  return join(folder, basename(archive).replace(/\.xz$/, ''));
}
