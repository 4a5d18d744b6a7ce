/** A daemon with two volumes and a schedule `s` that backs up, for the tests of that. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { asofJson } from '../cli/asof.js';
import { scratch } from '../cow/lab.js';
import { noise } from '../image/peer.js';
import { attempt } from '../peers.js';

export const MiB = 2 ** 20;

export interface Told {
  readonly state: string;
  readonly to: string | null;
  readonly failures: number;
  readonly last: {
    readonly outcome: string;
    readonly why: string;
    readonly points?: { readonly volume: string; readonly id: string }[];
  } | null;
  readonly exposure: {
    readonly volume: string;
    readonly point: string | null;
    readonly seconds: number | null;
  }[];
}

export interface Listed {
  readonly points: { readonly id: string; readonly manifest: Manifest }[];
  readonly failures: {
    readonly outcome: string;
    readonly why: string;
    readonly volume: { readonly name: string };
  }[];
}

export function backupLab(t: Test, size: number) {
  const folder = scratch(t);
  const [state, mount, history] = [join(folder, 'state'), join(folder, 'mount'), join(folder, 'history')];
  mkdirSync(mount);
  t.teardown(() => attempt('umount', ['-l', mount]));
  const bytes = { a: noise(1, size), b: noise(2, MiB) };
  writeFileSync(join(folder, 'a'), bytes.a);
  writeFileSync(join(folder, 'b'), bytes.b);
  const config = join(folder, 'asof.yaml');
  const configure = (schedules: string) =>
    writeFileSync(
      config,
      `state: state
mount: mount
logLevel: silent
defaults: {durability: process}
volumes: {a: {origin: a}, b: {origin: b}}
groups: {both: [a, b]}
schedules:
${schedules}`,
    );
  const ask = <T = Told>(...argv: string[]) => asofJson<T>(...argv, '--state', state);
  const told = () => ask('schedule', 'show', 's');
  const listed = () => asofJson<Listed>('history', history);
  const partial = () =>
    existsSync(history) ? readdirSync(history).filter(name => /^\.asof-[0-9a-f-]{36}/.test(name)) : [];
  return { folder, state, mount, history, bytes, config, configure, ask, told, listed, partial };
}
