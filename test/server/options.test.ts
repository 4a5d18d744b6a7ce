/** Options of a real daemon: by commands, and over a restart. */
import { join } from 'node:path';
import t from 'tap';
import { emptyFile, MiB } from '../cow/lab.js';
import { serve, setting } from './configured.js';

t.setTimeout(120_000);

t.test('options, by commands and over a restart', async t => {
  const { config, state, ask, said } = setting(t, '  s: {volumes: [a], cron: "@yearly"}\n');
  const stop = await serve(t, config);
  const current = async (key: string) =>
    (
      await ask<{ options: { key: string; current: unknown; source: string }[] }>('options', 'show')
    ).options.find(one => one.key === key);
  t.match(
    (await said('options', 'show')).stdout,
    /^OPTION +SHIPPED +SAVED +CURRENT +FROM\nchunk +64 KiB +64 KiB +shipped\ndurability +power +process +\S*asof.yaml, line 3\n/,
  );
  t.match(await said('options', 'set', 'consistency', 'application'), { status: 0 });
  t.match(await said('snapshot', 'create', 'a'), { status: 2, stderr: /would not be what was asked for/ });
  t.match(await said('schedule', 'run', 's'), { status: 2, stderr: /would not be what was asked for/ });
  t.match(await said('snapshot', 'create', 'a', '--consistency', 'crash'), { status: 0 });
  t.match(await said('options', 'reset'), { status: 0 });
  t.match(await said('schedule', 'run', 's'), { status: 0 });
  t.match(await said('options', 'set', 'providers', 'none'), { status: 0 });
  t.match(await ask<unknown>('snapshot', 'create', 'a'), [{ provider: 'none' }]);
  t.match(await ask<unknown>('snapshot', 'create', 'a', '--provider', 'cow'), [{ provider: 'cow' }]);
  t.match(await said('options', 'reset', 'providers'), { status: 0 });
  t.match(await said('options', 'set', 'chunk', '4K'), { status: 0 });
  t.match(await said('options', 'set', 'durability', 'power'), {
    status: 0,
    stderr: /durability: .*line 3 counts more/,
  });
  t.match(await said('options', 'save'), { status: 0 });
  emptyFile(join(state, '..', 'c'), MiB);
  t.match(await ask<unknown>('volume', 'add', 'c', join(state, '..', 'c')), {
    chunkSize: 4096,
    durability: 'power',
  });
  for (const [argv, message] of [
    [['chunk', '5000'], /a chunk of 5000 bytes is not allowed/],
    [['chunk', 'x'], /chunk "x" is not a whole number of bytes/],
    [['nothing', '1'], /no option "nothing"\nhint: there are chunk, durability/],
    [['durability', 'never'], /durability is "never"; it must be one of power, process/],
    [['freeze', 'maybe'], /freeze is "maybe"; it must be yes or no/],
    [['providers', 'cow,foo'], /providers has "foo"; there are cow/],
    [['deadline', 'x'], /it must be a number/],
  ] as const) {
    t.match(await said('options', 'set', ...argv), { status: 1, stderr: message });
  }
  await stop();
  const again = await serve(t, config);
  t.match(await current('chunk'), { current: 4096, source: 'saved' });
  t.match(await current('durability'), { current: 'process', source: 'configuration' });
  t.match(await said('options', 'restore-defaults'), { status: 0 });
  t.match(await current('chunk'), { current: 65536, source: 'shipped' });
  await again();
});
