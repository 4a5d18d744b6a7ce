/**
 * Rules of the repository that no compiler knows: documents name what is there, and the repository speaks of nothing
 * but the project.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const read = (path: string) => readFileSync(join(ROOT, path), 'utf8');

/** Every file of the project, relative to its root. */
const files = ['.', 'src', 'test', 'native', 'scripts', 'bench', 'docs', 'bin', '.ci']
  .flatMap(folder =>
    readdirSync(join(ROOT, folder), { recursive: folder !== '.', encoding: 'utf8' }).map(name =>
      join(folder, name),
    ),
  )
  .filter(path => statSync(join(ROOT, path)).isFile());

const documents = files.filter(path => path.endsWith('.md'));

t.test('links between documents lead somewhere', async t => {
  for (const path of documents) {
    for (const [, target = ''] of read(path).matchAll(/\]\(([^)#\s]+)[^)]*\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      t.ok(existsSync(join(ROOT, dirname(path), target)), `${path} → ${target}`);
    }
  }
});

t.test('every path that the README names exists', async t => {
  for (const [, path = ''] of read('README.md').matchAll(
    /`((?:src|test|native|scripts|bench|docs)\/[^`\s]*)`/g,
  )) {
    const folder = join(ROOT, path.endsWith('/') ? path : dirname(path));
    const name = path.endsWith('/') ? '' : basename(path);
    const pattern = new RegExp(`^${name.replaceAll('.', '\\.').replaceAll('*', '.*')}$`);
    t.ok(existsSync(folder) && (!name || readdirSync(folder).some(one => pattern.test(one))), path);
  }
});

t.test('every script that CONTRIBUTING names exists', async t => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
  for (const [, name = ''] of `${read('CONTRIBUTING.md')}${read('README.md')}`.matchAll(
    /npm (?:run )?(test[\w:-]*|(?<=run )[\w:]+)/g,
  )) {
    t.ok(scripts[name], `npm run ${name}`);
  }
});

t.test('the README names every system package', async t => {
  const { PACKAGES } = (await import(new URL('../../scripts/packages.js', import.meta.url).href)) as {
    PACKAGES: { name: string }[];
  };
  const text = read('README.md');
  for (const { name } of PACKAGES) t.ok(text.includes(`\`${name}\``), name);
});

t.test('the changelog has a place for what is not released', async t => {
  t.match(read('CHANGELOG.md'), /^## Unreleased$/m);
});

t.test('no drawer for everything', async t => {
  const drawers = files.filter(path =>
    /(^|\/)(utils?|helpers?|common|types|misc)(\.[a-z]+|\/)/.test(path.replace(/^\.\//, '')),
  );
  t.same(drawers, []);
});

t.test('most source files are short, and long ones begin with why', async t => {
  const sources = files.filter(path => /^(src|native)\/.*\.(ts|cc|h)$/.test(path));
  const lengths = sources.map(path => read(path).split('\n').length).sort((a, b) => a - b);
  const middle = lengths[lengths.length >> 1] ?? 0;
  t.ok(middle <= 120, `the median file has ${middle} lines`);
  for (const path of sources) {
    const text = read(path);
    // What implements a header has its words there.
    if (text.split('\n').length <= 40 || path.endsWith('.cc')) continue;
    t.ok(/^(\/\*\*|\/\/)/.test(text), `${path} begins with why it exists`);
  }
});

t.test('no file speaks of the machine it was written on', async t => {
  const tmp = ['', 'tmp', 'wt'].join('/');
  const work = ['', 'work', ''].join('/');
  for (const path of files.filter(one => /\.(ts|js|md|cc|h|json|gyp)$/.test(one))) {
    const text = read(path);
    t.notOk(text.includes(tmp) || text.includes(work), path);
  }
});

t.test('programs are executable', async t => {
  for (const path of ['bin/asof', '.ci/run']) t.ok(statSync(join(ROOT, path)).mode & 0o100, path);
});

t.test('what is built or downloaded is not part of the repository', async t => {
  if (!existsSync(join(ROOT, '.git'))) return;
  const ignored = execFileSync('git', ['check-ignore', 'node_modules/x', 'dist/x', 'build/x', 'demo/x'], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  t.equal(ignored.trim().split('\n').length, 4);
});
