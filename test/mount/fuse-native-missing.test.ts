/** The driver says what is missing where the package, or the library that it needs, is not there. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import type { MountDriver } from '../../src/mount/driver.js';

/** The driver from a copy of the program that stands outside the project, and so finds no package of it. */
async function driverIn(folder: string): Promise<MountDriver> {
  cpSync(new URL('../../src', import.meta.url), join(folder, 'dist/src'), { recursive: true });
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  const path = join(folder, 'dist/src/mount/fuse-native.js');
  return ((await import(path)) as { fuseNative: MountDriver }).fuseNative;
}

const MISSING = [
  { what: 'no package', content: '', says: /not installed \(npm install fuse-native\)/ },
  {
    what: 'no libfuse 2',
    // As dlopen says it on Linux.
    content: "throw new Error('libfuse.so.2: cannot open shared object file: No such file or directory');",
    says: /Debian's package libfuse2/,
  },
  {
    what: 'no binary for this machine',
    content: "throw new Error('No native build was found for platform=linux');",
    says: /does not load: No native build/,
  },
];

for (const { what, content, says } of MISSING) {
  t.test(what, async t => {
    const folder = mkdtempSync(join(tmpdir(), 'asof-missing-'));
    t.teardown(() => rmSync(folder, { recursive: true }));
    if (content) {
      const place = join(folder, 'node_modules/fuse-native');
      mkdirSync(place, { recursive: true });
      writeFileSync(join(place, 'package.json'), '{"main":"index.cjs"}');
      writeFileSync(join(place, 'index.cjs'), content);
    }
    const driver = await driverIn(folder);
    t.match(driver.unavailable(), says);
    const tree = { kind: 'directory', name: '', modified: new Date(), entries: [] } as const;
    await t.rejects(driver.mount(tree, { mountPoint: folder, source: 'x', allowOther: false }), {
      code: 'DRIVER_UNAVAILABLE',
      message: says,
    });
  });
}
