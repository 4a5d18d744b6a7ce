/** A daemon whose volumes are being closed says so, and nothing else: what it could tell is not how things are. */
import { request } from 'node:http';
import { join } from 'node:path';
import t from 'tap';
import { listen } from '../../src/server/http.js';
import type { LiveVolumes } from '../../src/volumes.js';
import { LOG, scratch } from '../cow/lab.js';

t.test('while volumes are closed', async t => {
  const socket = join(scratch(t), 'socket');
  const volumes = { list: () => [] };
  const live = { closed: false, volumes };
  const app = await listen(live as unknown as LiveVolumes, socket, LOG);
  t.teardown(() => app.close());
  const ask = () =>
    new Promise<string>((done, failed) => {
      request({ socketPath: socket, path: '/v1/volumes' }, response => {
        let text = `${response.statusCode} `;
        response.on('data', piece => {
          text += String(piece);
        });
        response.on('end', () => done(text));
      })
        .on('error', failed)
        .end();
    });
  t.equal(await ask(), '200 []');
  live.closed = true;
  t.match(await ask(), /^503 .*"DAEMON_MISSING".*is being stopped/);
});
