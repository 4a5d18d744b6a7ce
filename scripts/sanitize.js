/**
 * `npm run test:sanitize [FILES]`: builds the addon with AddressSanitizer and UndefinedBehaviorSanitizer, then with
 * ThreadSanitizer, and runs the tests that reach it (or the named compiled files) with each. Any report of any
 * process, servers and commands that tests start included, is a failure; so is a test that fails.
 *
 * ASOF_SANITIZE=address or =thread runs one of the two.
 */
import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { buildTypeScript, buildWithGyp, ROOT } from './build.js';

const SANITIZERS = [
  {
    name: 'address',
    flags: 'address,undefined',
    folder: 'build-asan',
    runtime: ['libasan.so', 'libubsan.so'],
    // Node does not free what it holds at its end.
    options: { ASAN_OPTIONS: 'detect_leaks=0:exitcode=99', UBSAN_OPTIONS: 'print_stacktrace=1' },
    fault: 'volatile char* p = new char[8]; delete[] p; p[0] = 1;',
  },
  {
    name: 'thread',
    flags: 'thread',
    folder: 'build-tsan',
    runtime: ['libtsan.so'],
    // A process that exits, rather than ends, joins no thread.
    options: {
      TSAN_OPTIONS: `exitcode=99:report_thread_leaks=0:second_deadlock_stack=1:suppressions=${join(ROOT, 'scripts/tsan.supp')}`,
    },
    fault: 'int x = 0; std::thread a([&] { x = 1; }), b([&] { x = 2; }); a.join(); b.join();',
  },
];

/** Folders of dist/test whose tests load the addon. */
const FOLDERS = ['block', 'image', 'mount', 'cli', 'end-to-end', 'cow', 'overlay', 'server'];
/** Fewer rounds of what goes on for as long as one likes: a sanitized engine is ten times slower. */
const FEWER = { ASOF_COW_CUT_SECONDS: '5', ASOF_COW_KILLS: '4', ASOF_COW_GROUPS: '60' };
const MINUTES = 20;

function main() {
  buildTypeScript();
  const named = process.argv.slice(2);
  const files = named.length > 0 ? named : testFiles();
  const only = process.env.ASOF_SANITIZE;
  let failures = 0;
  for (const sanitizer of SANITIZERS.filter(({ name }) => !only || only === name)) {
    failures += runAll(sanitizer, build(sanitizer), files);
    if (named.length === 0) failures += stress(sanitizer);
  }
  return failures === 0 ? 0 : 1;
}

function testFiles() {
  const base = join(ROOT, 'dist/test');
  return FOLDERS.filter(folder => existsSync(join(base, folder))).flatMap(folder =>
    readdirSync(join(base, folder), { recursive: true })
      .filter(name => name.endsWith('.test.js'))
      .sort()
      .map(name => relative(process.cwd(), join(base, folder, name))),
  );
}

/** The path of the addon. node-gyp builds beside its binding.gyp, so each build has a folder with links to ours. */
function build({ name, flags, folder }) {
  const directory = join(ROOT, folder);
  mkdirSync(directory, { recursive: true });
  copyFileSync(join(ROOT, 'binding.gyp'), join(directory, 'binding.gyp'));
  writeFileSync(join(directory, 'package.json'), '{}\n');
  for (const link of ['native', 'node_modules']) {
    rmSync(join(directory, link), { force: true });
    symlinkSync(join('..', link), join(directory, link));
  }
  console.log(`building the addon with ${flags}`);
  const failure = buildWithGyp(directory, { GYP_DEFINES: `sanitize=${flags}` });
  if (failure !== undefined) throw new Error(`the addon does not build with ${name}:\n${failure}`);
  return join(directory, 'build/Release/asof.node');
}

function runAll(sanitizer, addon, files) {
  const scratch = mkdtempSync(join(tmpdir(), 'asof-sanitize-'));
  const env = environment(sanitizer, addon, join(scratch, 'report'));
  const reports = () => readdirSync(scratch).filter(name => name.startsWith('report.'));
  try {
    noticesFault(sanitizer, env, scratch, reports);
    let failures = 0;
    for (const file of files) {
      const began = Date.now();
      const result = node(env, [file], {
        encoding: 'utf8',
        maxBuffer: 2 ** 28,
        timeout: MINUTES * 60_000,
        killSignal: 'SIGKILL',
      });
      const found = reports();
      const good = result.status === 0 && found.length === 0;
      console.log(
        `${good ? 'ok' : 'not ok'} ${sanitizer.name} ${file} ${Math.round((Date.now() - began) / 1000)} s`,
      );
      if (good) continue;
      failures++;
      if (result.status !== 0)
        console.log(`${failed(result.stdout ?? '')}${result.stderr ?? ''}`, result.signal ?? '');
      for (const name of found) {
        console.log(readFileSync(join(scratch, name), 'utf8'));
        rmSync(join(scratch, name));
      }
    }
    return failures;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** The copy-on-write engine alone, from many threads. */
function stress({ name, flags }) {
  const { status } = spawnSync('sh', [join(ROOT, 'scripts/stress-cow.sh'), flags], { stdio: 'inherit' });
  console.log(`${status === 0 ? 'ok' : 'not ok'} ${name} scripts/stress-cow.sh`);
  return status === 0 ? 0 : 1;
}

function environment({ runtime, options }, addon, logPath) {
  const withLog = Object.entries(options).map(([name, value]) => [name, `${value}:log_path=${logPath}`]);
  return {
    ...FEWER,
    ...process.env,
    ...Object.fromEntries(withLog),
    ASOF_RUNTIME: runtime.map(library => gcc(`-print-file-name=${library}`)).join(' '),
    NODE_OPTIONS: `--import=${join(ROOT, 'scripts/sanitized-children.js')}`,
    ASOF_ADDON: addon,
    TAP_TIMEOUT: String(MINUTES * 60),
  };
}

/** Throws unless a fault in a library that Node loads ends in a report: else silence would prove nothing. */
function noticesFault({ name, flags, fault }, env, scratch, reports) {
  const source = join(scratch, 'fault.cc');
  const library = join(scratch, 'fault.node');
  const body = `#include <thread>\n__attribute__((constructor)) static void Fault() { ${fault} }\n`;
  writeFileSync(source, body);
  gcc(
    '-x',
    'c++',
    '-std=c++20',
    '-O0',
    '-shared',
    '-fPIC',
    `-fsanitize=${flags}`,
    source,
    '-o',
    library,
    '-lstdc++',
  );
  const load = `process.dlopen({ exports: {} }, ${JSON.stringify(library)})`;
  const child = `require('node:child_process').spawnSync(process.execPath, ['-e', ${JSON.stringify(load)}], { env: {} })`;
  node(env, ['-e', child], {});
  if (reports().length === 0)
    throw new Error(`${name}: a deliberate fault in a child process is not reported`);
  for (const report of reports()) rmSync(join(scratch, report));
}

/**
 * Runs Node with its address space where it was without randomization, as ThreadSanitizer wants it; the runtime is for
 * Node alone.
 */
function node(env, args, options) {
  const command = ['-R', 'env', `LD_PRELOAD=${env.ASOF_RUNTIME}`, process.execPath, ...args];
  return spawnSync('setarch', command, { cwd: ROOT, env, ...options });
}

function gcc(...args) {
  const { status, stdout, stderr } = spawnSync('gcc', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`gcc ${args.join(' ')}:\n${stderr}`);
  return stdout.trim();
}

/** The failed parts of a TAP stream. */
function failed(tap) {
  return tap
    .split(/^(?= *(?:not )?ok )/m)
    .filter(part => /^ *not ok/.test(part))
    .join('');
}

process.exitCode = main();
