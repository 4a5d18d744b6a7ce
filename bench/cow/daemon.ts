/**
 * asof's daemon with a state directory and a mount of its own, asked over its socket as the commands do.
 */
import { mkdirSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { isMounted, serve, unmountAtEnd } from '../process.js';
import { ASOF } from '../servers.js';

export interface Snapshot {
  readonly id: string;
  readonly group: string;
  readonly volume: string;
  readonly moment: string;
  readonly state: string;
  readonly why: string;
  readonly holdNs: number;
  readonly switchNs: number;
}

export interface Counters {
  readonly copies: number;
  readonly firstWrites: number;
  readonly storeHeld: number;
}

export interface NewVolume {
  readonly name: string;
  readonly origin: string;
  readonly store: string;
  readonly durability: 'process' | 'power';
  readonly chunkSize?: number;
}

export class Daemon {
  readonly pid: number;
  readonly #socket: string;
  readonly #mount: string;
  readonly #stop: () => Promise<void>;

  private constructor(folder: string) {
    const state = join(folder, 'state');
    this.#mount = join(folder, 'shown');
    this.#socket = join(state, 'asof.sock');
    mkdirSync(this.#mount, { recursive: true });
    const undo = unmountAtEnd(this.#mount);
    const { stop, pid } = serve(process.execPath, [
      ...[ASOF, 'serve', '--state', state, '--mount', this.#mount, '--log-level', 'error'],
    ]);
    this.pid = pid;
    this.#stop = async () => {
      await stop();
      undo();
    };
  }

  /** `folder` is the daemon's own. Rejects where it is not ready after ten seconds. */
  static async start(folder: string): Promise<Daemon> {
    const daemon = new Daemon(folder);
    for (let i = 0; ; i++) {
      try {
        await daemon.ask('GET', '/daemon');
        if (isMounted(daemon.#mount)) return daemon;
      } catch (error) {
        if (i >= 1000) throw error;
      }
      await new Promise(resolve => setTimeout(resolve, 10));
    }
  }

  /** Rejects with the daemon's own words where it refuses. */
  ask<T>(method: string, path: string, body?: unknown): Promise<T> {
    return new Promise((resolve, reject) => {
      const text = body === undefined ? undefined : JSON.stringify(body);
      const headers = text === undefined ? {} : { 'content-type': 'application/json' };
      const sent = request(
        { socketPath: this.#socket, method, path: `/v1${path}`, headers, agent: false },
        answer => {
          let said = '';
          answer.setEncoding('utf8').on('data', (piece: string) => {
            said += piece;
          });
          answer.on('end', () => {
            if ((answer.statusCode ?? 500) >= 400) reject(new Error(`${method} ${path}: ${said}`));
            else resolve((said === '' ? undefined : JSON.parse(said)) as T);
          });
        },
      );
      sent.on('error', reject);
      sent.end(text);
    });
  }

  async add(volume: NewVolume): Promise<void> {
    await this.ask('POST', '/volumes', volume);
  }

  live(name: string): string {
    return join(this.#mount, 'volumes', name, 'live');
  }

  disk({ volume, moment }: Snapshot): string {
    return join(this.#mount, 'volumes', volume, moment, 'disk');
  }

  snapshot(...volumes: string[]): Promise<Snapshot[]> {
    return this.ask('POST', '/snapshots', { volumes });
  }

  delete(idOrGroup: string): Promise<unknown> {
    return this.ask('DELETE', `/snapshots/${idOrGroup}`);
  }

  async deleteAll(volume: string): Promise<void> {
    const all = await this.ask<Snapshot[]>('GET', `/snapshots?volume=${volume}`);
    for (const { id } of all) await this.delete(id);
  }

  async counters(volume: string): Promise<Counters> {
    const { counters } = await this.ask<{ counters: Counters }>('GET', `/volumes/${volume}/activity`);
    return counters;
  }

  async remove(volume: string): Promise<void> {
    await this.ask('DELETE', `/volumes/${volume}?force=true`);
  }

  stop(): Promise<void> {
    return this.#stop();
  }
}
