/**
 * qcow version 1: what the peer writes is what we read, over a base, packed, and truncated.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { convert, folder, noise, qemuImg, qemuIo } from './peer.js';
import { readAll } from './reader.js';

const dir = folder(t);
const pattern = join(dir, 'pattern');
writeFileSync(pattern, noise(1, 65536));
const source = join(dir, 'source.raw');
writeFileSync(
  source,
  Buffer.concat([noise(2, 300_032), Buffer.alloc(700_416), Buffer.from(noise(3, 40_192).toString('hex'))]),
);
const base = join(dir, 'base.qcow');
// QEMU 7.2 ends this with status 1 and no word, the image being whole; what it reads from it proves that.
spawnSync('qemu-img', ['convert', '-c', '-O', 'qcow', source, base]);
t.ok(convert(base, { format: 'qcow' }).equals(readFileSync(source)), 'the peer has made an image');
const top = join(dir, 'top.qcow');
qemuImg('create', '-q', '-f', 'qcow', '-o', `backing_file=${base},backing_fmt=qcow`, top);
qemuIo(top, [`write -s ${pattern} 100k 50k`, `write -s ${pattern} 900k 1k`], '-f', 'qcow');

for (const path of [base, top]) {
  t.test(`${path === base ? 'packed' : 'over a base'}`, async t => {
    const chain = openChain(path);
    t.teardown(() => chain.close());
    const { bytes, bad } = readAll(points(chain)[0]!.open());
    t.same(bad, []);
    t.ok(bytes.equals(convert(path, { format: 'qcow' })), 'the bytes are the peer’s');
    t.same(
      [...check(chain)].filter(({ severity }) => severity !== 'note'),
      [],
    );
  });
}

t.test('truncated: right or bad, never zeros', async t => {
  const sound = convert(base, { format: 'qcow' });
  const whole = readFileSync(base).length;
  for (const cut of [whole - 1, whole - 9999, whole >> 1, 5000, 600]) {
    const short = join(dir, 'short.qcow');
    copyFileSync(base, short);
    truncateSync(short, cut);
    const chain = openChain(short);
    const { bytes, bad } = readAll(points(chain)[0]!.open());
    t.ok(bad.length > 0);
    for (const { offset, length } of bad) sound.copy(bytes, offset, offset, offset + length);
    t.ok(bytes.equals(sound), `${cut} of ${whole} bytes`);
    t.ok([...check(chain)].some(({ kind }) => kind === 'range'));
    chain.close();
  }
});

t.test('encrypted: refused', async t => {
  const path = join(dir, 'secret.qcow');
  const bytes = readFileSync(base);
  bytes.writeUInt32BE(1, 36);
  writeFileSync(path, bytes);
  try {
    openChain(path).close();
    t.fail('it opens');
  } catch (error) {
    t.ok(error instanceof AsofError && error.code === 'IMAGE_ENCRYPTED', String(error));
  }
});
