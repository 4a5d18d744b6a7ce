/** A file system that nobody held is no part of a moment that is more than a crash, also where nobody was to hold it. */
import t from 'tap';
import { SYSTEM_CLOCK } from '../../src/cow/clock.js';
import type { ProviderVolume, Taken } from '../../src/cow/provider.js';
import { type MomentRequest, quiesce } from '../../src/cow/quiesce.js';
import { missing } from '../peers.js';
import { ext4On, NEEDED } from './frozen.js';
import { LOG, scratch } from './lab.js';

t.setTimeout(120_000);
const skip = missing(NEEDED, ['root', 'loop']);

const WRITERS = [{ kind: 'command', settings: { hold: 'true', release: 'true' } }];

t.test('--no-freeze beside a writer', { skip }, async t => {
  const { file, there } = await ext4On(t, scratch(t), 'disk');
  const volume = { definition: { name: 'disk' }, native: {} } as unknown as ProviderVolume;
  const taken: Taken = { time: 0, holdNs: 0, switchNs: 0, epochs: [1], writes: [0] };
  const moment = async (request: MomentRequest) => {
    const { records } = await quiesce({
      clock: SYSTEM_CLOCK,
      log: LOG,
      uid: 'job',
      subjects: [{ volume, live: file }],
      folders: [],
      takers: () => [{ name: 'fake', take: async () => taken, undo: async () => {} }],
      request: { writers: WRITERS, ...request },
      exclusively: work => work(),
    });
    return records[0]!;
  };
  t.match(await moment({}), { consistency: 'application', fileSystems: [{ mountPoint: there, held: true }] });
  await t.rejects(moment({ freeze: false }), { code: 'CONSISTENCY_UNMET' });
  t.match(await moment({ freeze: false, consistency: 'crash' }), {
    consistency: 'crash',
    why: /was not to be frozen/,
    fileSystems: [{ mountPoint: there, held: false }],
  });
});
