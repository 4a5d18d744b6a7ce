/**
 * systemd accepts the unit that is shipped, without a word: a setting that it does not know, or a program that is not there,
 * would be told of.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { scratch } from '../cow/lab.js';
import { attempt, missing } from '../peers.js';

const UNIT = 'systemd/asof.service';
const skip = missing(['systemd-analyze']);

const verify = (unit: string) => attempt('systemd-analyze', ['verify', '--man=no', unit]);

t.test('it is accepted', { skip }, async t => {
  const { code, stderr } = await verify(UNIT);
  t.equal(stderr, '');
  t.equal(code, 0);
});

t.test('one with a mistake is not', { skip }, async t => {
  const wrong = join(scratch(t), 'asof.service');
  writeFileSync(wrong, readFileSync(UNIT, 'utf8').replace('KillMode=', 'KilMode='));
  t.match((await verify(wrong)).stderr, /KilMode/);
});
