/** A state file is what was written, or is known not to be. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readState, writeState } from '../../src/cow/state-file.js';
import { scratch } from './lab.js';

const folder = scratch(t);
const path = join(folder, 'state.json');
const body = { name: 'Größe "1"', list: [1, 2.5, null], nested: { deep: [true] } };

function trouble(kind = 'test'): string {
  const read = readState(path, kind);
  return 'trouble' in read ? read.trouble : '';
}

t.test('what is written is read back; nothing else is left in the folder', async t => {
  writeState(path, 'test', { old: true });
  writeState(path, 'test', body);
  t.same(readState(path, 'test'), { body });
  t.same(readdirSync(folder), ['state.json']);
});

t.test('a changed byte anywhere is noticed, or is no change of meaning', async t => {
  const sound = readFileSync(path);
  for (let at = 0; at < sound.length; at++) {
    const damaged = Buffer.from(sound);
    damaged[at]! ^= 1;
    writeFileSync(path, damaged);
    const read = readState(path, 'test');
    if ('body' in read) t.same(read.body, body, `byte ${at}`);
    else t.match(read.trouble, /damaged/, `byte ${at}`);
  }
  writeFileSync(path, sound);
});

t.test('a cut at any length is noticed', async t => {
  const sound = readFileSync(path);
  for (let length = 0; length < sound.length - 2; length++) {
    writeFileSync(path, sound.subarray(0, length));
    t.match(trouble(), /damaged/, `${length} bytes`);
  }
  writeFileSync(path, sound);
});

t.test('another kind, another version, no file', async t => {
  t.match(trouble('other'), /it is no other/);
  writeFileSync(path, readFileSync(path, 'utf8').replace('"version": 1', '"version": 2'));
  t.match(trouble(), /version is 2/);
  t.match(readState(join(folder, 'nothing'), 'test'), { missing: true });
});
