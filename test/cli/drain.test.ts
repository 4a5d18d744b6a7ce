/** What is stored in any order is given back in whole chunks, each byte once, whatever the size of a chunk. */
import t from 'tap';
import type { Client } from '../../src/cli/client.js';
import { Drain } from '../../src/cli/drain.js';
import { randomOf } from '../cow/rig.js';

const CLUSTER = 65536;

for (const chunkSize of [4096, 65536, 131072, 2 ** 20, 2 ** 21]) {
  t.test(`chunks of ${chunkSize} bytes`, async t => {
    const clusters = 333;
    const size = clusters * CLUSTER - 1536;
    const given = new Uint8Array(Math.ceil(size / 512));
    let cut = 0;
    let asked = 0;
    const client = {
      async ask(_method: string, _path: string, body: { extents: { start: number; length: number }[] }) {
        asked++;
        for (const { start, length } of body.extents) {
          const end = start + length;
          if (start % chunkSize !== 0 || (end % chunkSize !== 0 && end !== size)) cut++;
          for (let at = start; at < end; at += 512) given[at / 512]!++;
        }
        await new Promise(done => setImmediate(done));
        return { extents: asked === 1 ? [{ start: 0, length: chunkSize }] : [] };
      },
    } as unknown as Client;
    const { hooks } = new Drain(client, { lease: 'j', snapshot: 's', size, chunkSize });
    const random = randomOf(chunkSize);
    const order = Array.from({ length: clusters }, (_, i) => i);
    const first = 40 + random(50);
    hooks.passed!([[first * CLUSTER, size - first * CLUSTER]]);
    order.splice(first);
    const waiting: Promise<void>[] = [];
    while (order.length > 0) {
      const batch = Array.from({ length: Math.min(order.length, 1 + random(9)) }, () =>
        order.splice(random(order.length), 1),
      ).flat();
      waiting.push(Promise.resolve(hooks.stored!(batch)));
      if (random(3) === 0) await Promise.all(waiting);
    }
    await Promise.all(waiting);
    t.equal(cut, 0, 'whole chunks');
    t.ok(
      given.every(count => count === 1),
      'each byte once',
    );
    t.same(hooks.urgent!(), [[0, chunkSize]]);
    t.same(hooks.urgent!(), [], 'told once');
  });
}

t.test('a daemon that refuses: the backup goes on without', async t => {
  const client = {
    async ask() {
      throw new Error('no');
    },
  } as unknown as Client;
  const drain = new Drain(client, { lease: 'j', snapshot: 's', size: CLUSTER, chunkSize: CLUSTER });
  await drain.hooks.stored!([0]);
  t.equal(drain.trouble, 'no');
});
