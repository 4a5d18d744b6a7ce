/** What is said of contents is what blkid says of them: kind, label and UUID. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { contentOf } from '../../src/block/content.js';
import { partOf } from '../../src/block/partitions.js';
import { attempt, missing, run } from '../peers.js';
import { bytesOf, fileOf } from './partx.js';

const folder = mkdtempSync(join(tmpdir(), 'asof-content-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));
const MIB = 2 ** 20;

/** blkid's words. */
async function blkid(path: string) {
  const { stdout } = await attempt('blkid', [
    '--probe',
    '--usages',
    'filesystem,raid,crypto,other',
    '--output',
    'udev',
    path,
  ]);
  const told = new Map(
    stdout
      .toString()
      .split('\n')
      .map(line => line.split(/=(.*)/s).slice(0, 2) as [string, string]),
  );
  // It escapes what is no letter, a blank above all.
  const label = (told.get('ID_FS_LABEL_ENC') ?? '').replace(/\\x(..)/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
  return { type: told.get('ID_FS_TYPE'), label, uuid: told.get('ID_FS_UUID_ENC') ?? '' };
}

async function ours(path: string) {
  const file = fileOf(path);
  try {
    const content = await contentOf(file);
    return { type: content?.type, label: content?.label ?? '', uuid: content?.uuid ?? '' };
  } finally {
    file.close();
  }
}

const empty = (name: string, size: number) => {
  const path = join(folder, name);
  writeFileSync(path, '');
  truncateSync(path, size);
  return path;
};

const MADE: [name: string, size: number, program: string, options: string[], input?: string][] = [
  ['ext2', 8 * MIB, 'mkfs.ext2', ['-q', '-L', 'two']],
  ['ext3', 16 * MIB, 'mkfs.ext3', ['-q', '-L', 'three']],
  ['ext4', 16 * MIB, 'mkfs.ext4', ['-q', '-L', 'sixteen letters!']],
  ['ext4 without a journal', 16 * MIB, 'mkfs.ext4', ['-q', '-O', '^has_journal']],
  ['xfs', 320 * MIB, 'mkfs.xfs', ['-q', '-L', 'xlabel']],
  ['btrfs', 120 * MIB, 'mkfs.btrfs', ['-q', '-L', 'a b tree']],
  ['ntfs', 16 * MIB, 'mkntfs', ['-F', '-q', '-Q', '-L', 'Größe 1']],
  ['ntfs without a label', 16 * MIB, 'mkntfs', ['-F', '-q', '-Q', '-c', '65536', '-s', '4096']],
  ['fat12', 2 * MIB, 'mkfs.fat', ['-F', '12', '-n', 'TWELVE']],
  ['fat16', 20 * MIB, 'mkfs.fat', ['-F', '16', '-n', 'SIX TEEN']],
  ['fat32', 64 * MIB, 'mkfs.fat', ['-F', '32', '-n', 'THIRTYTWO']],
  ['fat32, sectors of 4096', 300 * MIB, 'mkfs.fat', ['-S', '4096', '-F', '32', '-n', 'FOURK']],
  ['fat without a label', 20 * MIB, 'mkfs.fat', []],
  ['exfat', 20 * MIB, 'mkfs.exfat', ['-n', 'exläbel']],
  ['swap', 2 * MIB, 'mkswap', ['-L', 'swapped']],
  ['swap, pages of 64 KiB', 8 * MIB, 'mkswap', ['-p', '65536', '-L', 'large']],
  [
    'luks1',
    8 * MIB,
    'cryptsetup',
    ['luksFormat', '-q', '--type', 'luks1', '--pbkdf-force-iterations', '1000', '--key-file', '-'],
    'key',
  ],
  [
    'luks2',
    20 * MIB,
    'cryptsetup',
    [
      'luksFormat',
      '-q',
      '--type',
      'luks2',
      '--label',
      'secret',
      '--pbkdf',
      'pbkdf2',
      '--pbkdf-force-iterations',
      '1000',
      '--key-file',
      '-',
    ],
    'key',
  ],
];

for (const [name, size, program, options, input] of MADE) {
  t.test(name, { skip: missing([program, 'blkid']) }, async t => {
    const path = empty(name, size);
    const env = { LC_ALL: 'C.UTF-8' };
    await run(program, [...options, path], input === undefined ? { env } : { input, env });
    const told = await blkid(path);
    t.ok(told.type);
    t.same(await ours(path), told);
    rmSync(path);
  });
}

t.test('LUKS 2 without its first header', { skip: missing(['cryptsetup']) }, async t => {
  const path = empty('second', 20 * MIB);
  const options = [
    '--type',
    'luks2',
    '--label',
    'kept',
    '--pbkdf',
    'pbkdf2',
    '--pbkdf-force-iterations',
    '1000',
  ];
  await run('cryptsetup', ['luksFormat', '-q', ...options, '--key-file', '-', path], { input: 'key' });
  const whole = await ours(path);
  writeFileSync(path, Buffer.alloc(4096), { flag: 'r+' });
  t.same(await ours(path), whole);
});

t.test('ISO 9660', { skip: missing(['genisoimage', 'blkid']) }, async t => {
  const from = join(folder, 'from');
  mkdirSync(from);
  writeFileSync(join(from, 'file'), 'x');
  const path = join(folder, 'iso');
  execFileSync('genisoimage', ['-quiet', '-V', 'a disc', '-o', path, from], { stdio: 'ignore' });
  t.same(await ours(path), await blkid(path));
});

/** What no program here can make, laid out as its specification says; blkid knows it again. */
const LAID: [name: string, size: number, lay: (bytes: Buffer) => void][] = [
  [
    'linux raid 1.2',
    4 * MIB,
    bytes => {
      raid(bytes, 4096);
    },
  ],
  [
    'linux raid 1.0',
    4 * MIB + 5120,
    bytes => {
      raid(bytes, Math.floor((Math.floor(bytes.length / 512) - 16) / 8) * 4096);
    },
  ],
  [
    'apfs',
    4 * MIB,
    bytes => {
      bytes.writeUInt32LE(1, 8);
      bytes.writeUInt32LE(0x80000001, 24);
      bytes.write('NXSB', 32);
      bytes.writeUInt32LE(4096, 36);
      bytes.fill(0x5a, 72, 88);
    },
  ],
  ['LVM2', 4 * MIB, lvm],
  ['hfs+', 4 * MIB, bytes => hfsPlus(bytes, 0, 'Macintosh HD')],
];

/** lib/format_text/layout.h; its CRC has a start of its own, and no end (lib/misc/crc.c). */
function lvm(bytes: Buffer): void {
  const label = bytes.subarray(512, 1024);
  label.write('LABELONE');
  label.writeBigUInt64LE(1n, 8);
  label.writeUInt32LE(32, 20);
  label.write('LVM2 001', 24);
  label.write('On2hazvNVuTpyUTxG1rwmBFPwgmQq2gY', 32);
  let crc = 0xf597a6cf;
  for (const byte of label.subarray(20)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  label.writeUInt32LE(crc >>> 0, 16);
}

function raid(bytes: Buffer, at: number): void {
  bytes.writeUInt32LE(0xa92b4efc, at);
  bytes.writeUInt32LE(1, at + 4);
  bytes.fill(0x3c, at + 16, at + 32);
  bytes.write('host:array', at + 32);
  bytes.writeBigUInt64LE(BigInt(at / 512), at + 144);
}

/** Apple, Technical Note TN1150: volume header, and a catalogue of a header node and one leaf. */
function hfsPlus(bytes: Buffer, at: number, name: string): void {
  const header = at + 1024;
  bytes.write('H+', header);
  bytes.writeUInt16BE(4, header + 2);
  bytes.writeUInt32BE(4096, header + 40);
  bytes.writeUInt32BE(bytes.length / 4096, header + 44);
  bytes.fill(0x42, header + 104, header + 112);
  const extents = header + 272 + 16;
  bytes.writeUInt32BE(8, extents);
  bytes.writeUInt32BE(16, extents + 4);
  const tree = at + 8 * 4096;
  bytes.writeUInt8(1, tree + 8);
  bytes.writeUInt32BE(1, tree + 20);
  bytes.writeUInt32BE(1, tree + 24);
  bytes.writeUInt16BE(4096, tree + 32);
  const leaf = tree + 4096;
  bytes.writeUInt8(0xff, leaf + 8);
  bytes.writeUInt16BE(1, leaf + 10);
  bytes.writeUInt16BE(6 + 2 * name.length, leaf + 14);
  bytes.writeUInt32BE(1, leaf + 16);
  bytes.writeUInt16BE(name.length, leaf + 20);
  Buffer.from(name, 'utf16le')
    .swap16()
    .copy(bytes, leaf + 22);
}

for (const [name, size, lay] of LAID) {
  t.test(name, { skip: missing(['blkid']) }, async t => {
    const bytes = Buffer.alloc(size);
    lay(bytes);
    const path = join(folder, name);
    writeFileSync(path, bytes);
    const told = await blkid(path);
    t.ok(told.type);
    t.same(await ours(path), told);
  });
}

t.test('BitLocker, with its description', async t => {
  const bytes = Buffer.alloc(MIB);
  bytes.write('\xeb\x58\x90-FVE-FS-', 'latin1');
  Buffer.from('3bd66749292ed84a8399f6a339e3d001', 'hex').copy(bytes, 160);
  bytes.writeBigUInt64LE(65536n, 176);
  const block = bytes.subarray(65536);
  block.write('-FVE-FS-');
  block.writeUInt32LE(48 + 8 + 2 * 11, 64);
  block.fill(0x77, 80, 96);
  block.writeUInt16LE(8 + 2 * 11, 112);
  block.writeUInt16LE(7, 114);
  block.write('PC C: today', 120, 'utf16le');
  t.match(await contentOf(bytesOf(bytes)), {
    type: 'BitLocker',
    label: 'PC C: today',
    uuid: '77777777-7777-7777-7777-777777777777',
  });
});

t.test('ZFS: the pool', async t => {
  const bytes = Buffer.alloc(MIB);
  let at = 16384;
  const put = (value: number) => {
    bytes.writeUInt32BE(value, at);
    at += 4;
  };
  put(0x01010000);
  put(0);
  put(1);
  const pair = (name: string, type: number, value: Buffer) => {
    const padded = Math.ceil(name.length / 4) * 4;
    const size = 12 + padded + 8 + value.length;
    put(size);
    put(size);
    put(name.length);
    bytes.write(name, at, 'latin1');
    at += padded;
    put(type);
    put(1);
    value.copy(bytes, at);
    at += value.length;
  };
  const pool = Buffer.alloc(8);
  pool.writeUInt32BE(4);
  pool.write('tank', 4);
  pair('name', 9, pool);
  const guid = Buffer.alloc(8);
  guid.writeBigUInt64BE(1234567890123456789n);
  pair('pool_guid', 8, guid);
  t.match(await contentOf(bytesOf(bytes)), {
    type: 'zfs_member',
    label: 'tank',
    uuid: '1234567890123456789',
  });
});

t.test('nothing, at any length', async t => {
  for (const size of [0, 1, 511, 512, 513, 1024, 4096, 65536, 200_000]) {
    t.equal(await contentOf(bytesOf(Buffer.alloc(size))), undefined, `${size} zeros`);
    t.equal(await contentOf(bytesOf(Buffer.alloc(size, 0xff))), undefined, `${size} ones`);
  }
});

t.test('a part does not show what lies behind it', async t => {
  const bytes = Buffer.alloc(MIB);
  hfsPlus(bytes, 0, 'hidden');
  t.equal(await contentOf(partOf(bytesOf(bytes), 0, 1024)), undefined);
});
