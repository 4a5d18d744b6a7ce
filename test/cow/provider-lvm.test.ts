/** The provider `lvm` keeps what every provider promises, as far as scripted programs can show it. */
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { deviceNumber } from '../../src/cow/block-device.js';
import { lvm } from '../../src/cow/provider-lvm.js';
import { missing } from '../peers.js';
import { loop, scratch } from './lab.js';
import { conformance } from './provider-conformance.js';
import { scriptLvm } from './scripted-lvm.js';

t.setTimeout(120_000);

const skip = missing(['losetup'], ['root', 'loop']);

t.test('as every provider', { skip }, async t => {
  const folder = scratch(t);
  const scripted = scriptLvm(t, join(folder, 'lvm'));
  conformance(t, lvm, folder, async (path, bytes) => {
    writeFileSync(path, bytes);
    const device = await loop(t, path);
    scripted.addOrigin(device, deviceNumber(statSync(device, { bigint: true }).rdev));
    return device;
  });
});
