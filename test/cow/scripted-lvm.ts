/**
 * lvm2 as far as the provider speaks to it, scripted: logical volumes are rows of a file, a snapshot is a copy. What real
 * lvm2 does is shown in a guest (test/guest/lvm.ts).
 */
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { Test } from 'tap';

export type Row = Record<string, string>;

/** What a program does in place of its work: says something, and ends so. */
export interface Fault {
  readonly stdout?: string;
  readonly stderr?: string;
  readonly code?: number;
  /** Does its work, and then waits for so many milliseconds. */
  readonly late?: number;
}

const SCRIPT = `#!${process.execPath}
const fs = require('node:fs');
const path = require('node:path');
const program = path.basename(process.argv[1]);
const folder = path.dirname(process.argv[1]);
const args = process.argv.slice(2);
const read = name => JSON.parse(fs.readFileSync(path.join(folder, name), 'utf8'));
fs.appendFileSync(path.join(folder, 'calls'), JSON.stringify([program, ...args, process.env.LC_ALL]) + '\\n');
const fault = read('faults')[program];
if (fault && fault.late === undefined) {
  process.stdout.write(fault.stdout ?? '');
  process.stderr.write(fault.stderr ?? '');
  process.exit(fault.code ?? 0);
}
const rows = read('rows');
const save = all => fs.writeFileSync(path.join(folder, 'rows'), JSON.stringify(all));
const option = name => args.flatMap((arg, i) => (arg === name ? [args[i + 1]] : []));
const named = () => rows.find(row => row.vg_name + '/' + row.lv_name === args.at(-1));
if (program === 'lvs') {
  process.stderr.write('  WARNING: something that is of no interest\\n');
  const [selection] = option('-S');
  const tag = /^lv_tags=(.*)$/.exec(selection)?.[1];
  const number = /^lv_kernel_major=(\\d+) && lv_kernel_minor=(\\d+)$/.exec(selection);
  const lv = rows.filter(row =>
    tag ? row.lv_tags.split(',').includes(tag) : row.lv_kernel_major === number[1] && row.lv_kernel_minor === number[2],
  );
  process.stdout.write(JSON.stringify({ report: [{ lv }] }));
} else if (program === 'lvcreate') {
  const origin = named();
  const [name] = option('--name');
  const copy = path.join(folder, name);
  fs.writeFileSync(copy, fs.readFileSync(origin.lv_path), { mode: 0o400 });
  const minor = String(1000 + rows.length);
  save([...rows, { ...origin, lv_name: name, lv_uuid: name, lv_path: copy, lv_kernel_major: '253', lv_kernel_minor: minor,
    lv_attr: 'sri-a-s---', lv_tags: option('--addtag').join(','), origin_uuid: origin.lv_uuid }]);
} else if (program === 'lvremove') {
  const row = named();
  fs.unlinkSync(row.lv_path);
  save(rows.filter(one => one !== row));
} else if (program === 'lvchange') {
  const row = named();
  const [gone] = option('--deltag');
  if (gone) row.lv_tags = row.lv_tags.split(',').filter(tag => tag !== gone).join(',');
  else row.lv_kernel_major = '253';
  save(rows);
}
if (fault) setTimeout(() => {}, fault.late);
`;

/** For the time of the test they are the first on the PATH. */
export function scriptLvm(t: Test, folder: string) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'script'), SCRIPT);
  chmodSync(join(folder, 'script'), 0o755);
  // A name that ends otherwise is CommonJS; the folder has no package.
  for (const name of ['lvs', 'lvcreate', 'lvremove', 'lvchange']) symlinkSync('script', join(folder, name));
  const write = (name: string, value: unknown) => writeFileSync(join(folder, name), JSON.stringify(value));
  write('rows', []);
  write('faults', {});
  const { PATH } = process.env;
  process.env['PATH'] = [folder, PATH].join(delimiter);
  t.teardown(() => {
    process.env['PATH'] = PATH;
  });
  const rows = () => JSON.parse(readFileSync(join(folder, 'rows'), 'utf8')) as Row[];
  return {
    rows,
    setRows: (all: readonly Row[]) => write('rows', all),
    /** The device is a logical volume from now on. */
    addOrigin(path: string, number: string, more: Row = {}) {
      const [lv_kernel_major, lv_kernel_minor] = number.split(':') as [string, string];
      const name = `lv${rows().length}`;
      const row: Row = {
        vg_name: 'vg',
        lv_name: name,
        lv_uuid: name,
        lv_kernel_major,
        lv_kernel_minor,
        lv_path: path,
      };
      const rest = { lv_attr: 'owi-a-s---', segtype: 'linear', lv_tags: '', origin_uuid: '' };
      write('rows', [...rows(), { ...row, ...rest, ...more }]);
    },
    faults: (faults: Readonly<Record<string, Fault>>) => write('faults', faults),
    calls(): string[][] {
      const path = join(folder, 'calls');
      if (!existsSync(path)) return [];
      const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
      return lines.map(line => JSON.parse(line) as string[]);
    },
  };
}
