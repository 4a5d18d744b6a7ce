/** What an E01 image says of itself: in `asof info`, and compared with the disk by `asof check --deep`. */
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { behind, checked, DONE, group, packed, volume, writeSegment } from '../fixtures/ewf.js';
import { folder, noise } from '../image/peer.js';
import { missing } from '../peers.js';
import { asof, asofJson, eventually, peer } from './asof.js';

const CHUNK = 8192;
const BYTES = noise(4, 2 * CHUNK);

/** An image of two chunks that carries `md5`. */
function image(name: string, md5: string, spoil = false): string {
  const head = [volume(2, 16, 32)];
  const chunks = [0, 1].map(i => packed(BYTES.subarray(i * CHUNK, (i + 1) * CHUNK)));
  if (spoil) chunks[1]![100]! ^= 1;
  const body = group(
    behind(head),
    chunks.map(bytes => ({ bytes, packed: true })),
  );
  const hash = { type: 'hash', data: checked(Buffer.concat([Buffer.from(md5, 'hex'), Buffer.alloc(16)])) };
  const path = join(dir, name);
  writeSegment(path, 1, [...head, ...body, hash, DONE]);
  return path;
}

const dir = folder(t);
const right = createHash('md5').update(BYTES).digest('hex');
const wrong = createHash('md5').update('another disk').digest('hex');

t.test('info shows the digest', async t => {
  const { stdout } = await asof('info', image('right.E01', right));
  t.match(stdout.toString(), new RegExp(`format +ewf[^]*md5 +${right}`));
  const info = await asofJson<{ members: { metadata: Record<string, string> }[] }>(
    'info',
    join(dir, 'right.E01'),
  );
  t.equal(info.members[0]?.metadata['md5'], right);
});

t.test('a digest that is the disk’s', async t => {
  const { status, stdout } = await asof('check', '--deep', image('right.E01', right));
  t.equal(status, 0);
  t.match(stdout.toString(), /^note .*the MD5 that the image carries is that of the disk/);
});

t.test('a digest that is not, and one that cannot be', async t => {
  const other = await asof('check', '--deep', image('wrong.E01', wrong));
  t.equal(other.status, 3);
  t.match(
    other.stdout.toString(),
    new RegExp(`defect .*the MD5 of the disk is ${right}, the image carries ${wrong}`),
  );
  const spoilt = await asof('check', '--deep', image('spoilt.E01', right, true));
  t.equal(spoilt.status, 3);
  t.match(spoilt.stdout.toString(), /does not unpack[^\n]*\[bytes 8192 to 16383\]/);
  const shallow = await asof('check', join(dir, 'wrong.E01'));
  t.equal(shallow.status, 0, 'only --deep reads the disk');
});

interface Verified {
  readonly verified?: {
    readonly state: string;
    readonly done: number;
    readonly why: string;
    readonly digests: readonly { algorithm: string; stored: string; found: string | null }[];
  };
}

t.test('a mount compares the digest in the background', { skip: missing([], ['fuse']) }, async t => {
  const raw = join(dir, 'plain.raw');
  writeFileSync(raw, BYTES);
  for (const [path, state, found] of [
    [image('right.E01', right), 'matches', right],
    [image('wrong.E01', wrong), 'differs', right],
    [image('spoilt.E01', right, true), 'unreadable', null],
    [raw, 'none', undefined],
  ] as const) {
    const at = join(dir, `mnt-${state}`);
    mkdirSync(at);
    t.teardown(() => asof('umount', at));
    const mounted = await asof('mount', path, at, '--verify');
    t.equal(mounted.status, 0, mounted.stderr.toString());
    const read = async () => JSON.parse((await peer('cat', join(at, 'info.json'))).toString()) as Verified;
    await eventually(async () => (await read()).verified?.state !== 'running', 'a verdict');
    const { verified } = await read();
    t.equal(verified?.state, state);
    t.equal(verified?.digests[0]?.found, found);
    if (state === 'unreadable') t.match(verified?.why, /cannot be vouched for/);
    await asof('umount', at);
  }
  const refused = await asof('mount', dir, dir, '--verify');
  t.match(refused.stderr.toString(), /is a folder[\s\S]*asof verify/);
});

t.test('a mount that is not asked says nothing of digests', { skip: missing([], ['fuse']) }, async t => {
  const at = join(dir, 'mnt-quiet');
  mkdirSync(at);
  t.teardown(() => asof('umount', at));
  await asof('mount', image('right.E01', right), at);
  t.notOk('verified' in JSON.parse((await peer('cat', join(at, 'info.json'))).toString()));
});
