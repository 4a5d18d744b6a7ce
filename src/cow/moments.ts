/** How the snapshots of a volume came about: a file of each, beside the list of them. */
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { MomentRecord } from './consistency.js';
import { readState, writeState } from './state-file.js';

const MOMENT = 'moment';
const TEMPORARY = 'temporary';

export class Moments {
  readonly #folder: string;

  /** `volume`: its folder. */
  constructor(volume: string) {
    this.#folder = join(volume, 'moments');
  }

  /** undefined where that is not known. */
  read(id: string): MomentRecord | undefined {
    const read = readState<MomentRecord>(this.#file(id), MOMENT);
    return 'trouble' in read ? undefined : read.body;
  }

  /** Throws IO. */
  write(id: string, moment: MomentRecord): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    writeState(this.#file(id), MOMENT, moment);
  }

  remove(id: string): void {
    rmSync(this.#file(id), { force: true });
    rmSync(this.#mark(id), { force: true });
  }

  /** The snapshot that is about to be taken belongs to a lease, and is nobody's when that is over. Throws IO. */
  markTemporary(id: string): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    writeState(this.#mark(id), TEMPORARY, { id });
  }

  unmarkTemporary(id: string): void {
    rmSync(this.#mark(id), { force: true });
  }

  isTemporary(id: string): boolean {
    return existsSync(this.#mark(id));
  }

  /** Of snapshots that are not there: deleted ones, and those of a job that died. */
  sweep(ids: readonly string[]): void {
    if (!existsSync(this.#folder)) return;
    const known = new Set(ids.flatMap(id => [`${id}.json`, `${id}.temporary`]));
    for (const name of readdirSync(this.#folder)) if (!known.has(name)) rmSync(join(this.#folder, name));
  }

  #mark(id: string): string {
    return join(this.#folder, `${id}.temporary`);
  }

  #file(id: string): string {
    return join(this.#folder, `${id}.json`);
  }
}
