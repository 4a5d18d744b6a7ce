/**
 * Groups whose deletion has begun (docs/formats.md, deletions.json): written down before the first member goes, so that after a
 * kill in between the next start deletes the others. Members disappear together.
 */
import { join } from 'node:path';
import type { Logger } from '../log.js';
import { readState, removeState, writeState } from './state-file.js';

const KIND = 'deletions';

export interface Member {
  /** The id of the volume. */
  readonly volume: string;
  /** Of the snapshot. */
  readonly id: string;
}

type Group = readonly Member[];

export class Deletions {
  readonly #path: string;
  #groups: readonly Group[] = [];

  /** Brings back what is not finished. What cannot be read is told, and counts as nothing. */
  constructor(state: string, log: Logger) {
    this.#path = join(state, 'deletions.json');
    const read = readState<{ groups: Group[] }>(this.#path, KIND);
    if ('body' in read) this.#groups = read.body.groups;
    else if (!read.missing) log.warn({ why: read.trouble }, 'which deletions were begun is not known');
  }

  get groups(): readonly Group[] {
    return this.#groups;
  }

  /** Whether it is on its way: nobody is shown it. */
  has(id: string): boolean {
    return this.#groups.some(group => group.some(one => one.id === id));
  }

  /** Throws IO: then nothing of it has begun. */
  begin(group: Group): void {
    this.#keep([...this.#groups, group]);
  }

  /** All of it is gone, or is as it was. Throws IO. */
  end(group: Group): void {
    this.#keep(this.#groups.filter(one => one !== group));
  }

  #keep(groups: readonly Group[]): void {
    if (groups.length === 0) removeState(this.#path);
    else writeState(this.#path, KIND, { groups });
    this.#groups = groups;
  }
}
