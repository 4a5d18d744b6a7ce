/** Maps of the file systems of Linux (file-system-maps.ts); what is done where there is none, or it makes no sense. */
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { backup, type Manifest } from '../../src/histories.js';
import { parseDomain } from '../../src/image/used-space.js';
import { ASOF } from '../cli/asof.js';
import { attempt, missing } from '../peers.js';
import { LINUX, mapsOf, ok } from './file-system-maps.js';
import { OPTIONS } from './history-lab.js';
import { folder, noise } from './peer.js';

mapsOf(LINUX);

t.test('no map', async t => {
  const image = join(folder(t), 'disk.img');
  writeFileSync(image, noise(1, 300_000));
  const { point } = await backup(image, `${image}.history`, OPTIONS);
  t.equal(point.manifest.allocation, 'holes');
  t.match(point.manifest.allocationWhy, /all sectors: it holds nothing that is known/);
  t.type(point.manifest.sha256, 'string');
});

t.test('without partclone', { skip: missing(['mkfs.ext4', 'unshare', 'mount'], ['root']) }, async t => {
  const home = folder(t);
  const image = join(home, 'disk.img');
  writeFileSync(image, '');
  truncateSync(image, 16 * 2 ** 20);
  await ok(t, 'mkfs.ext4', '-q', '-F', image);
  mkdirSync(join(home, 'empty'));
  // Where Debian keeps it there is nothing, for this one process.
  const script = 'mount --bind "$1" /usr/sbin && shift && exec "$@"';
  const asof = [process.execPath, ASOF, 'backup', image, '--to', join(home, 'history'), '--json'];
  const { code, stdout } = await attempt('unshare', [
    ...['--mount', '--propagation', 'private', '--', 'sh', '-c', script, 'sh', join(home, 'empty')],
    ...asof,
  ]);
  t.equal(code, 0);
  const manifest = JSON.parse(stdout.toString()) as Manifest;
  t.equal(manifest.allocation, 'holes');
  t.match(
    manifest.allocationWhy,
    /all sectors: partclone.extfs is not installed: .*apt-get install partclone/,
  );
  t.type(manifest.sha256, 'string');
});

t.test('maps that make no sense', async t => {
  const head = '# Domain\n0x00001000     ?\n#  pos size status\n';
  t.same(parseDomain(`${head}0x0  0x400  +\n0x400  0xC00  ?\n`, 4096), [[0x400, 0xc00]]);
  t.type(parseDomain('', 4096), 'string');
  t.type(parseDomain(head, 4096), 'string');
  t.type(parseDomain(`${head}0x0  0x400  +\n0x800  0x400  ?\n`, 4096), 'string', 'a gap');
  t.type(parseDomain(`${head}0x0  0x1001  ?\n`, 4096), 'string', 'more than there is');
  t.type(parseDomain(`${head}0x0  0x400\n`, 4096), 'string', 'half a line');
  t.type(parseDomain(`${head}0x0  0x400  -\n`, 4096), 'string');
});
