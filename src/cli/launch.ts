/**
 * The launcher of a mount in the background. It imports next to nothing, starts the server at once, and ends when
 * the server says over a pipe what to print and with which status.
 *
 * The pipe is the server's descriptor 3. The server sends one line of JSON (`Answer`); where its status is 0 the
 * launcher answers `ok`. A server whose launcher goes away without that `ok` unmounts and ends, so that an
 * interrupted command leaves nothing behind. A server that ends without a word was killed or is broken: its log says.
 */
import { spawn } from 'node:child_process';
import { closeSync, lstatSync, mkdirSync, openSync, readFileSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Answer {
  readonly stdout: string;
  readonly stderr: string;
  readonly exit: number;
}

/** Environment variable that tells the server where its log is. */
export const LOG_VARIABLE = 'ASOF_SERVER_LOG';

/** `argv` is that of the mount command, without node and script. Does not return before the process ends. */
export async function launch(argv: readonly string[]): Promise<never> {
  const { path, log } = newLog();
  const script = new URL('server.js', import.meta.url).pathname;
  // A small young generation: what the map leaves behind is garbage at once, and more room would only be held.
  const server = spawn(process.execPath, ['--max-semi-space-size=2', script, ...argv], {
    // A session of its own: no controlling terminal, and none of the launcher's signals.
    detached: true,
    stdio: ['ignore', log, log, 'pipe'],
    env: { ...process.env, [LOG_VARIABLE]: path ?? '' },
  });
  if (log !== 'ignore') closeSync(log);
  const json = argv.includes('--json');
  const answer = await new Promise<Answer>(done => {
    const pipe = server.stdio[3] as import('node:net').Socket;
    let text = '';
    pipe.setEncoding('utf8');
    pipe.on('data', (piece: string) => {
      text += piece;
      if (!text.includes('\n')) return;
      const said = JSON.parse(text) as Answer;
      if (said.exit === 0) pipe.end('ok\n', () => done(said));
      else done(said);
    });
    pipe.on('error', () => {});
    server.on('error', error => done(died(`cannot be started (${error.message})`, json)));
    server.on('exit', (code, signal) => {
      // What it said before may still be on its way.
      const how = signal ? `was killed by ${signal}` : `ended with status ${code}`;
      setImmediate(() => done(died(how, json)));
    });
  });
  process.stdout.write(answer.stdout);
  process.stderr.write(answer.exit === 0 ? answer.stderr : withLog(answer.stderr, path, json));
  process.exit(answer.exit);
}

export { launch as main };

/** `how`: the server's end in words. AsofError is not loaded here, so this says what its MOUNT_FAILED would. */
function died(how: string, json: boolean): Answer {
  const message = `the server ${how} before the mount was ready`;
  const error = { code: 'MOUNT_FAILED', message, hint: '' };
  return { stdout: '', stderr: json ? `${JSON.stringify({ error })}\n` : `asof: ${message}\n`, exit: 2 };
}

/** A failure, and what libfuse, fusermount or a dying server wrote to the log: people see it, JSON names the file. */
function withLog(stderr: string, path: string | undefined, json: boolean): string {
  if (path === undefined) return stderr;
  const log = readFileSync(path, 'utf8').slice(-4096);
  if (!json || log === '') {
    unlinkSync(path);
    return stderr + log;
  }
  const told = JSON.parse(stderr) as { error: { hint: string } };
  told.error.hint ||= `the log is ${path}`;
  return `${JSON.stringify(told)}\n`;
}

/**
 * A new log in a folder that nobody else can write to: $XDG_RUNTIME_DIR/asof, /run/asof for root, else
 * /tmp/asof-UID. Where there is none, the server has no log.
 */
function newLog(): { readonly path: string | undefined; readonly log: number | 'ignore' } {
  const uid = process.getuid?.() ?? 0;
  const runtime = process.env['XDG_RUNTIME_DIR'];
  const folder = runtime ? join(runtime, 'asof') : uid === 0 ? '/run/asof' : join(tmpdir(), `asof-${uid}`);
  const path = join(folder, `mount-${Date.now()}-${process.pid}.log`);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const stat = lstatSync(folder);
    if (stat.isDirectory() && stat.uid === uid && (stat.mode & 0o022) === 0) {
      return { path, log: openSync(path, 'ax', 0o600) };
    }
  } catch {
    // A mount without a log is better than none.
  }
  return { path: undefined, log: 'ignore' };
}
