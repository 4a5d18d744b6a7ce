/** Tables that sfdisk and sgdisk write are read as libblkid reads them: numbers, places, types, names and UUIDs. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { type Survey, surveyPartitions } from '../../src/block/partitions.js';
import type { SectorSize } from '../../src/block/source.js';
import { missing, run } from '../peers.js';
import { fileOf, partx } from './partx.js';

const skip = missing(['sfdisk', 'fdisk', 'sgdisk', 'partx']);
const folder = mkdtempSync(join(tmpdir(), 'asof-partitions-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));
const MIB = 2 ** 20;
let count = 0;

async function made(script: string, size = 64 * MIB): Promise<string> {
  const path = join(folder, `disk${count++}`);
  writeFileSync(path, '');
  truncateSync(path, size);
  if (script !== '') await run('sfdisk', ['--quiet', '--no-tell-kernel', path], { input: script });
  return path;
}

/** Its table in sectors of 4096 bytes, by what is typed into fdisk. */
async function typed(commands: readonly string[]): Promise<string> {
  const path = await made('');
  await run('fdisk', ['--sector-size', '4096', path], { input: `${commands.join('\n')}\n` });
  return path;
}

/** Two primary partitions and one logical. */
const MBR_4096 = [
  ...['o', 'n', 'p', '1', '256', '2303', 'n', 'p', '2', '4096', '5119'],
  ...['n', 'e', '3', '6144', '16000', 'n', 'l', '6400', '7000', 'w'],
];

async function surveyed(path: string, sectorSize: SectorSize = 512): Promise<Survey> {
  const file = fileOf(path, sectorSize);
  try {
    return await surveyPartitions(file);
  } finally {
    file.close();
  }
}

const shown = ({ table }: Survey) =>
  (table?.partitions ?? []).map(({ number, start, size, type, uuid, name }) => ({
    number,
    start,
    size,
    type: type.replace(/^0x0/, '0x'),
    uuid,
    name,
  }));

t.test('an MBR with primary and logical partitions', { skip }, async t => {
  const script =
    'label: dos\nlabel-id: 0x1a2b3c4d\n' +
    'start=2048,size=8192,type=83,bootable\nstart=10240,size=4096,type=7\nstart=20480,size=60000,type=5\n' +
    'start=22528,size=2048,type=83\nstart=30000,size=1000,type=82\nstart=40960,size=4096,type=c\n';
  const path = await made(script);
  const survey = await surveyed(path);
  t.same(shown(survey), await partx(path));
  t.same(
    survey.table?.partitions.map(({ number }) => number),
    [1, 2, 5, 6, 7],
  );
  t.same(survey.defects, []);
  t.match(survey.table, { kind: 'mbr', id: '0x1a2b3c4d', sectorSize: 512 });
  t.match(survey.table?.partitions[0], { bootable: true, typeName: 'Linux', type: '0x83' });
});

t.test('a GPT, with names', { skip }, async t => {
  const path = await made(
    'label: gpt\nstart=2048,size=4096,type=U,name="EFI system"\nstart=8192,size=8192,name="Größe ✓"\n' +
      'start=20000,size=100,type=S\n',
  );
  await run('sgdisk', ['--new=9:40000:+1M', path]);
  const survey = await surveyed(path);
  const told = await partx(path);
  t.same(
    shown(survey).map(({ name: _, ...rest }) => rest),
    told.map(({ name: _, ...rest }) => rest),
  );
  t.same(
    survey.table?.partitions.map(({ name }) => name),
    ['EFI system', 'Größe ✓', '', ''],
  );
  t.equal(survey.table?.partitions.at(-1)?.number, 9, 'the place in the table is the number');
  t.equal(survey.table?.partitions[0]?.typeName, 'EFI System');
  t.match(survey, { table: { kind: 'gpt', sectorSize: 512 }, defects: [] });
});

t.test('more than 128 partitions', { skip }, async t => {
  const lines = Array.from({ length: 200 }, (_, i) => `start=${4096 + i * 64},size=64`);
  const path = await made(`label: gpt\ntable-length: 256\nfirst-lba: 4000\n${lines.join('\n')}\n`);
  const survey = await surveyed(path);
  t.equal(survey.table?.partitions.length, 200);
  t.same(shown(survey), await partx(path));
});

t.test('a hybrid MBR beside a GPT', { skip }, async t => {
  const path = await made('label: gpt\nstart=2048,size=4096\nstart=8192,size=8192\nstart=30000,size=512\n');
  await run('sgdisk', ['--hybrid=1:3', path]);
  const survey = await surveyed(path);
  t.equal(survey.table?.kind, 'hybrid');
  t.same(shown(survey), await partx(path));
  t.same(survey.defects, []);
});

t.test('a hybrid MBR that says something else', { skip }, async t => {
  const path = await made('label: gpt\nstart=2048,size=4096\n');
  await run('sgdisk', ['--hybrid=1', path]);
  const bytes = fileOf(path);
  const mbr = await bytes.read(0, 512);
  bytes.close();
  mbr.writeUInt8(0x83, 494 + 4);
  mbr.writeUInt32LE(9000, 494 + 8);
  mbr.writeUInt32LE(100, 494 + 12);
  writeFileSync(path, mbr, { flag: 'r+' });
  const survey = await surveyed(path);
  t.equal(survey.table?.kind, 'hybrid');
  t.match(
    survey.defects.join(),
    /entry 4 of the hybrid MBR \(100 sectors from sector 9000\) is no partition of the GPT/,
  );
});

t.test('sectors of 4096 bytes', { skip }, async t => {
  const path = await typed(['g', 'n', '1', '256', '767', 'n', '2', '1024', '3071', 'w']);
  for (const sectorSize of [4096, 512] as const) {
    const survey = await surveyed(path, sectorSize);
    t.match(
      survey,
      { table: { kind: 'gpt', sectorSize: 4096 }, defects: [] },
      `in a container of ${sectorSize}`,
    );
    t.same(shown(survey), await partx(path, 4096));
  }
  const mbr = await typed(MBR_4096);
  t.same(shown(await surveyed(mbr, 4096)), await partx(mbr, 4096));
});

t.test(
  'an MBR that counts in 4096 bytes, of a disk with sectors of 512',
  { skip: missing(['mkfs.ext4', 'dd']) || skip },
  async t => {
    const path = await typed(MBR_4096);
    const ext = join(folder, 'ext');
    writeFileSync(ext, '');
    truncateSync(ext, 8 * MIB);
    await run('mkfs.ext4', ['-q', ext]);
    await run('dd', [`if=${ext}`, `of=${path}`, 'bs=4096', 'seek=256', 'conv=notrunc,sparse', 'status=none']);
    const survey = await surveyed(path);
    t.equal(survey.table?.sectorSize, 4096, 'a file system begins there');
    t.same(shown(survey), await partx(path, 4096));
  },
);

t.test('no table', { skip: missing(['mkfs.fat', 'mkntfs', 'mkfs.ext4']) || skip }, async t => {
  const none: [string, string[]][] = [
    ['mkfs.fat', []],
    ['mkntfs', ['-F', '-q', '-Q']],
    ['mkfs.ext4', ['-q']],
  ];
  for (const [program, options] of none) {
    const path = join(folder, program);
    writeFileSync(path, '');
    truncateSync(path, 16 * MIB);
    await run(program, [...options, path]);
    t.same(await surveyed(path), { table: undefined, defects: [] }, program);
  }
  const empty = join(folder, 'empty');
  writeFileSync(empty, '');
  t.same(await surveyed(empty), { table: undefined, defects: [] }, 'nothing at all');
});
