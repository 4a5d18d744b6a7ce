/**
 * What a write of a file system under memory pressure may wait for: threads that the kernel knows as such, and buffers of
 * which there are only so many. Where a loop device over the live file hangs, it is for one of these.
 */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { missing, run } from '../peers.js';
import { scratch } from './lab.js';
import { CowMachine, codeOf, filled, openVolume, readAll, snapshot } from './rig.js';

const CHUNK = 65536;
const WRITERS = 72;

/**
 * Stands for prctl(2), so that the test needs no CAP_SYS_RESOURCE: what each thread said of itself goes into a file, as
 * "thread 0|1". PR_SET_IO_FLUSHER is 57, PR_GET_IO_FLUSHER 58.
 */
const SHIM = `
  #define _GNU_SOURCE
  #include <dlfcn.h>
  #include <fcntl.h>
  #include <stdarg.h>
  #include <stdio.h>
  #include <stdlib.h>
  #include <unistd.h>
  static __thread int flusher;
  int prctl(int option, ...) {
    va_list list;
    va_start(list, option);
    unsigned long a = va_arg(list, unsigned long), b = va_arg(list, unsigned long), c = va_arg(list, unsigned long),
      d = va_arg(list, unsigned long);
    va_end(list);
    if (option == 58) return flusher;
    if (option != 57) return ((int (*)(int, ...))dlsym(RTLD_NEXT, "prctl"))(option, a, b, c, d);
    flusher = (int)a;
    char line[64];
    int fd = open(getenv("ASOF_TEST_SHIM_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (write(fd, line, snprintf(line, sizeof line, "%d %d\\n", gettid(), flusher)) < 0) abort();
    close(fd);
    return 0;
  }`;

/** Name of each thread, and whether the kernel was told of it. */
function threads(log: string): { name: string; flusher: boolean }[] {
  const told = new Map<string, boolean>();
  for (const line of readFileSync(log, 'latin1').trim().split('\n')) {
    const [id, flusher] = line.split(' ');
    told.set(id!, flusher === '1');
  }
  return readdirSync('/proc/self/task').flatMap(id => {
    try {
      const name = readFileSync(`/proc/self/task/${id}/comm`, 'latin1').trim();
      return [{ name, flusher: told.get(id) ?? false }];
    } catch {
      return []; // it ended
    }
  });
}

function rig(size: number, timeoutMs: number) {
  const machine = new CowMachine([size, 0, 0]);
  machine.setBytes(0, filled(size, 1));
  const given = {
    size,
    timeoutMs,
    chunkSize: CHUNK,
    onError: 'break-write' as const,
    origin: { machine, file: 0 },
    store: { machine, file: 1 },
    tracker: { machine, file: 2 },
  };
  return { machine, open: (create: boolean) => openVolume({ ...given, create }) };
}

async function until(met: () => boolean): Promise<void> {
  while (!met()) await new Promise(resolve => setTimeout(resolve, 10));
}

/** More writers than buffers, on as many threads: what their store does, slow or hanging, ends each of them. */
async function buffers(): Promise<void> {
  const size = WRITERS * 16 * CHUNK;
  for (const hang of [false, true]) {
    const { machine, open } = rig(size, hang ? 1000 : 0);
    const { volume, live } = await open(true);
    const id = await snapshot(volume);
    machine.setFaults(1, hang ? { hang } : { writeMs: 20 });
    const writes = Array.from({ length: WRITERS }, (_, i) =>
      codeOf(live.write(i * 16 * CHUNK, filled(16 * CHUNK, i + 2))),
    );
    const codes = new Set(await Promise.all(writes));
    machine.setFaults(1, {});
    const whole = (await readAll(volume.disk(id), size)).equals(filled(size, 1));
    console.log(`${hang ? 'hung' : 'slow'} ${[...codes].join()} ${whole}`);
    volume.abandon();
  }
}

/** While a copy hangs: which threads are marked. */
async function marked(log: string): Promise<void> {
  const { machine, open } = rig(16 * CHUNK, 60_000);
  const { volume, live } = await open(true);
  await snapshot(volume);
  machine.setFaults(1, { hang: true });
  const write = codeOf(live.write(0, filled(CHUNK, 2)));
  const named = (name: string) => threads(log).filter(thread => thread.name === name);
  const others = () => threads(log).filter(thread => !thread.name.startsWith('asof-') && thread.flusher);
  await until(() => named('asof-store').length > 0 && others().length > 0);
  for (const name of ['asof-store', 'asof-janitor']) {
    await until(() => named(name).every(thread => thread.flusher));
    console.log(`${name} ${named(name).length > 0}`);
  }
  // The writer itself: a gate, the journal or a group's sync may make others wait for it.
  console.log(`libuv ${others().length}`);
  machine.setFaults(1, {});
  await write;
  await until(() => others().length === 0);
  console.log('given back');
  await volume.close();
}

/** What this file says as a child with these arguments. */
async function output(t: Test, argument: string, env: NodeJS.ProcessEnv): Promise<string[]> {
  const running = spawn(process.execPath, [fileURLToPath(import.meta.url), argument], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => running.kill('SIGKILL'));
  let text = '';
  for await (const part of running.stdout) text += part;
  return text.trim().split('\n');
}

if (process.argv[2] === 'buffers') {
  await buffers();
} else if (process.argv[2] === 'marked') {
  await marked(process.env['ASOF_TEST_SHIM_LOG']!);
} else {
  // A sanitizer wants to be the first library itself.
  const skip = process.env['ASOF_RUNTIME'] ? 'a sanitizer is loaded' : missing(['gcc']);
  t.test('each thread that a write waits for is known to the kernel', { skip }, async t => {
    const folder = scratch(t);
    const [source, library, log] = ['shim.c', 'shim.so', 'log'].map(name => join(folder, name));
    writeFileSync(source!, SHIM);
    await run('gcc', ['-shared', '-fPIC', '-O1', source!, '-o', library!, '-ldl']);
    const said = await output(t, 'marked', { LD_PRELOAD: library!, ASOF_TEST_SHIM_LOG: log! });
    t.same(said, ['asof-store true', 'asof-janitor true', 'libuv 1', 'given back']);
  });

  t.test('writers in any number share so many buffers', async t => {
    const said = await output(t, 'buffers', { UV_THREADPOOL_SIZE: String(WRITERS) });
    t.same(said, ['slow  true', 'hung ETIMEDOUT true']);
  });
}
