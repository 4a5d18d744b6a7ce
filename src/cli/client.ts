/**
 * Asks the daemon: HTTP and JSON over the socket in the state directory. What the daemon refuses is thrown here as it was
 * thrown there.
 */
import { type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { AsofError, ERROR_CODES, type ErrorCode, errnoOf } from '../errors.js';
import { command } from '../shell.js';
import { ROOT_STATE, type StateFlags, stateFolder } from './state.js';

type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';

export class Client {
  readonly #state: string;

  constructor(flags: StateFlags) {
    this.#state = stateFolder(flags.state);
  }

  /** `path` below /v1, with what it needs escaped. Throws DAEMON_MISSING, and what the daemon throws. */
  async ask<T>(method: Method, path: string, body?: unknown): Promise<T> {
    const response = await this.#send(method, path, body);
    return this.#parse<T>(response, await this.#text(response));
  }

  /** The lines of an answer that may be longer than memory, as they come. Throws as `ask`, also in the middle. */
  async *lines(path: string): AsyncGenerator<string, void, undefined> {
    const response = await this.#send('GET', path);
    if (response.statusCode !== 200) this.#parse(response, await this.#text(response));
    response.setEncoding('utf8');
    let rest = '';
    try {
      for await (const piece of response) {
        const lines = `${rest}${piece as string}`.split('\n');
        rest = lines.pop()!;
        yield* lines;
      }
    } catch (error) {
      throw this.#unreachable(error);
    }
    if (rest !== '') yield rest;
  }

  /**
   * An answer that lasts: its first line, and the end of it, which `close` brings about. `ended` resolves when it ends, or the
   * daemon is gone. Throws as `ask`.
   */
  async hold<T>(
    method: Method,
    path: string,
    body?: unknown,
  ): Promise<{ readonly first: T; readonly ended: Promise<void>; readonly close: () => void }> {
    const response = await this.#send(method, path, body);
    if (response.statusCode !== 200) this.#parse(response, await this.#text(response));
    response.setEncoding('utf8');
    let text = '';
    const ended = new Promise<void>(done => {
      response.on('close', done);
      response.on('error', () => done());
    });
    const line = await new Promise<string>((done, failed) => {
      response.on('data', (piece: string) => {
        text += piece;
        if (text.endsWith('\n')) done(text);
      });
      ended.then(() => failed(this.#unreachable(new Error('the answer ended'))));
    });
    return { first: JSON.parse(line) as T, ended, close: () => response.destroy() };
  }

  #parse<T>(response: IncomingMessage, text: string): T {
    const status = response.statusCode ?? 0;
    let answer: unknown;
    try {
      answer = JSON.parse(text);
    } catch {
      throw new Error(`the daemon answered ${status} and no JSON: ${text.slice(0, 200)}`);
    }
    if (status === 200) return answer as T;
    const { code, message, hint } = (answer as { error: { code: string; message: string; hint: string } })
      .error;
    if (ERROR_CODES.some(one => one === code)) throw new AsofError(code as ErrorCode, message, hint);
    throw new Error(`in the daemon: ${message}`);
  }

  async #text(response: IncomingMessage): Promise<string> {
    const pieces: Buffer[] = [];
    try {
      for await (const piece of response) pieces.push(piece as Buffer);
    } catch (error) {
      throw this.#unreachable(error);
    }
    return Buffer.concat(pieces).toString();
  }

  /** Resolves when the answer begins. */
  #send(method: Method, path: string, body?: unknown): Promise<IncomingMessage> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((done, failed) => {
      const sent = request(
        {
          socketPath: join(this.#state, 'asof.sock'),
          method,
          path: `/v1${path}`,
          headers:
            payload === undefined
              ? {}
              : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) },
        },
        done,
      );
      sent.on('error', error => failed(this.#unreachable(error)));
      sent.end(payload);
    });
  }

  #unreachable(error: unknown): AsofError {
    const errno = errnoOf(error);
    const state = this.#state;
    const [what, hint] =
      errno === 'EACCES' || errno === 'EPERM'
        ? [
            `the daemon of the state directory ${state} belongs to another user`,
            'ask it as that user, or as root',
          ]
        : errno === 'ENOENT' || errno === 'ECONNREFUSED'
          ? [
              `no daemon runs on the state directory ${state}`,
              command`start it: asof serve --state ${state}`.concat(
                state === ROOT_STATE ? ' (or systemctl start asof)' : '',
                '; --state or ASOF_STATE names another directory',
              ),
            ]
          : [
              `the daemon of the state directory ${state} went away before it had answered`,
              'its log says why',
            ];
    return new AsofError('DAEMON_MISSING', `${what} (${errno || String(error)})`, hint, { cause: error });
  }
}
