/** Chains across formats, where the image says so: a qcow2 on a base that another system wrote reads as QEMU reads it. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { missing } from '../peers.js';
import { convert, folder, qemuImg, qemuIo } from './peer.js';
import { readAll } from './reader.js';
import { content } from './subjects.js';

/** QEMU's name of the format, and ours. */
const BASES = [
  ['vhdx', 'vhdx'],
  ['vpc', 'vhd'],
  ['vmdk', 'vmdk'],
  ['vdi', 'vdi'],
  ['parallels', 'parallels'],
  ['qcow', 'qcow'],
] as const;

for (const [theirs, ours] of BASES) {
  t.test(`qcow2 on ${ours}`, { skip: missing(['qemu-img', 'qemu-io']) }, async t => {
    const dir = folder(t);
    const raw = join(dir, 'raw');
    writeFileSync(raw, content(7, 6 * 2 ** 20));
    const base = `base.${theirs}`;
    const options = theirs === 'vpc' ? ['-o', 'force_size=on'] : [];
    qemuImg('convert', '-f', 'raw', '-O', theirs, ...options, raw, join(dir, base));
    const middle = join(dir, 'middle.qcow2');
    const top = join(dir, 'top.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', base, '-F', theirs, middle);
    qemuIo(middle, ['write -P 9 1M 300k', 'write -z 3M 128k'], '-f', 'qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', 'middle.qcow2', '-F', 'qcow2', top);
    qemuIo(top, ['write -P 8 1100k 64k'], '-f', 'qcow2');
    const chain = openChain(top);
    t.teardown(() => chain.close());
    t.same(
      chain.members.map(({ format }) => format),
      ['qcow2', 'qcow2', ours],
    );
    const { bytes, bad } = readAll(points(chain)[0]!.open());
    t.same(bad, []);
    t.ok(bytes.equals(convert(top)));
    t.same(
      [...check(chain)].filter(({ severity }) => severity === 'defect'),
      [],
    );
  });
}
