/**
 * Files out of a partition; no path leads out of its file system; a run that is stopped leaves nothing, and what a killed one
 * leaves mounted is taken down by the next.
 */
import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { missing, run } from '../peers.js';
import { ASOF, asof, eventually, mounted } from './asof.js';
import { fill, MIB, NEEDS, PEERS, scratch, within } from './file-lab.js';

t.setTimeout(240_000);

t.test(
  'a partition; what is refused; a stop',
  { skip: missing([...PEERS, 'mkfs.ext4', 'sfdisk'], NEEDS) },
  async t => {
    const folder = scratch(t);
    const fs = join(folder, 'fs.img');
    const disk = join(folder, 'disk.img');
    const into = join(folder, 'into');
    mkdirSync(into);
    writeFileSync(fs, '');
    truncateSync(fs, 32 * MIB);
    await run('mkfs.ext4', ['-q', '-F', fs]);
    await within(t, fs, 'ext4', root => fill(root, true));
    await run('umount', [`${fs}.mnt`]);
    writeFileSync(disk, '');
    truncateSync(disk, 40 * MIB);
    await run('sfdisk', ['--quiet', disk], { input: 'label: gpt\nstart=2048,size=65536\n' });
    const fd = openSync(disk, 'r+');
    writeSync(fd, readFileSync(fs), 0, 32 * MIB, MIB);
    closeSync(fd);
    const refused = async (code: string, status: number, point: string, ...options: string[]) => {
      const ended = await asof('restore', point, '--into', into, '--json', ...options);
      t.equal(ended.status, status, `${options.join(' ')}: ${ended.stderr}`);
      t.match(ended.stderr, code);
      t.same(readdirSync(into), []);
    };
    await refused('FILE_SYSTEM_UNKNOWN', 2, disk, '--files', 'etc');
    await refused('PARTITION_UNKNOWN', 2, disk, '--files', 'etc', '--partition', '7');
    const one = ['--partition', '1', '--files'];
    await refused('USAGE', 1, disk, ...one, '../etc/passwd');
    await refused('USAGE', 1, disk, ...one, 'home/../../etc');
    await refused('USAGE', 1, disk, ...one, 'home/out/passwd');
    await refused('NOT_FOUND', 2, disk, ...one, 'nothing');
    await refused('NOT_FOUND', 2, disk, ...one, 'etc/below');
    await refused('USAGE', 1, disk, ...one, 'etc', './etc');
    t.equal((await asof('restore', disk, '--files', 'etc')).status, 1, 'without --into');
    t.equal(
      (await asof('restore', disk, '--files', 'home/out', '--into', into, '--partition', '1')).status,
      0,
    );
    t.equal(await run('readlink', [join(into, 'out')]), '/etc\n', 'the last name may be a link');
    rmSync(join(into, 'out'));

    // One that is killed where it cannot clean up leaves mounts; the next run takes them down.
    const fifo = join(folder, 'bin');
    mkdirSync(fifo);
    writeFileSync(
      join(fifo, 'cp'),
      '#!/bin/sh\n[ "$1" = --version ] && exec /bin/cp --version\nexec sleep 600\n',
      { mode: 0o755 },
    );
    const env = { ...process.env, PATH: `${fifo}:${process.env['PATH']}` };
    const begin = () =>
      spawn(ASOF, ['restore', disk, '--partition', '1', '--files', 'etc', '--into', into], {
        stdio: 'ignore',
        env,
      });
    const viewOf = (pid: number) => readdirSync('/run/asof/files').find(name => name.startsWith(`${pid}-`));
    const under = (pid: number) => {
      const name = existsSync('/run/asof/files') ? viewOf(pid) : undefined;
      return name && mounted(`/run/asof/files/${name}/fs`) && readdirSync(into).length > 0 ? name : undefined;
    };
    const stopped = begin();
    await eventually(() => under(stopped.pid!) !== undefined, 'the copy has begun');
    stopped.kill('SIGINT');
    t.equal(await new Promise(done => stopped.on('close', done)), 2, 'a stop is a failure');
    t.same(readdirSync(into), []);
    t.equal(viewOf(stopped.pid!), undefined, 'and leaves nothing');

    const killed = begin();
    await eventually(() => under(killed.pid!) !== undefined, 'the copy has begun');
    const left = under(killed.pid!)!;
    killed.kill('SIGKILL');
    await new Promise(done => killed.on('close', done));
    t.ok(mounted(`/run/asof/files/${left}/fs`), 'a killed one leaves its mounts');
    await run('sh', [
      '-c',
      `for p in /proc/[0-9]*; do [ "$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)" = "sleep 600 " ] && [ "$(tr '\\0' '\\n' <$p/environ 2>/dev/null | grep -c "^PATH=${fifo}:")" = 1 ] && kill "\${p#/proc/}"; done; true`,
    ]);
    rmSync(into, { recursive: true });
    mkdirSync(into);
    t.equal((await asof('restore', disk, '--partition', '1', '--files', 'etc', '--into', into)).status, 0);
    t.notOk(existsSync(`/run/asof/files/${left}`), 'the next one has taken them down');
    t.notOk(mounted(`/run/asof/files/${left}/fs`));
    t.equal(readFileSync(join(into, 'etc'), 'utf8'), 'a file');
  },
);
