/**
 * The commands, in the order in which `asof --help` lists them. A command is one file and one line here; its file is
 * loaded when it is the one that runs.
 */
import type { Command } from 'commander';

export interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  /** `define` adds arguments, options, examples and the action. The action sets `process.exitCode` if it is not 0. */
  readonly load: () => Promise<{ readonly define: (command: Command) => void }>;
}

export const COMMANDS: readonly CommandEntry[] = [
  {
    name: 'mount',
    summary: 'show every point of an image and its chain as a read-only disk',
    load: () => import('./mount.js'),
  },
  { name: 'umount', summary: 'end a mount', load: () => import('./umount.js') },
  {
    name: 'attach',
    summary: 'a point as a drive: a read-only device, and its file systems on a folder',
    load: () => import('./attach.js'),
  },
  { name: 'detach', summary: 'take away what was attached', load: () => import('./detach.js') },
  {
    name: 'info',
    summary: 'format, features and sizes of an image and of all that it stands on',
    load: () => import('./info.js'),
  },
  { name: 'points', summary: 'every point in time that can be opened', load: () => import('./points.js') },
  { name: 'map', summary: 'where the bytes of a point lie', load: () => import('./map.js') },
  {
    name: 'check',
    summary: 'look for defects in an image and in all that it stands on',
    load: () => import('./check.js'),
  },
  { name: 'read', summary: 'bytes of a point, to standard output', load: () => import('./read.js') },
  { name: 'compare', summary: 'the ranges in which two points differ', load: () => import('./compare.js') },
  {
    name: 'serve',
    summary: 'the daemon: live volumes and their snapshots',
    load: () => import('./serve.js'),
  },
  {
    name: 'volume',
    summary: 'what the daemon protects: add, list, show, remove, mark, unmark',
    load: () => import('./volume.js'),
  },
  {
    name: 'snapshot',
    summary: 'moments of volumes: create, list, show, delete, overlay',
    load: () => import('./snapshot.js'),
  },
  {
    name: 'changes',
    summary: 'what was written to a volume since a snapshot',
    load: () => import('./changes.js'),
  },
  {
    name: 'activity',
    summary: 'how much is written to a volume, and when its store is full',
    load: () => import('./activity.js'),
  },
  {
    name: 'backup',
    summary: 'one more point in a history: a full image, or what changed',
    load: () => import('./backup.js'),
  },
  {
    name: 'history',
    summary: 'the points of a history, and how they stand on each other',
    load: () => import('./history.js'),
  },
  {
    name: 'verify',
    summary: 'whether a history still is what was written',
    load: () => import('./verify.js'),
  },
  {
    name: 'schedule',
    summary: 'when the daemon takes snapshots by itself: list, show, run, pause, resume',
    load: () => import('./schedule.js'),
  },
  {
    name: 'job',
    summary: 'how snapshots were asked for that are not there: list, show',
    load: () => import('./job.js'),
  },
  {
    name: 'options',
    summary: 'defaults of volumes and snapshots: show, set, save, reset, restore-defaults',
    load: () => import('./defaults.js'),
  },
  {
    name: 'restore',
    summary: 'a point, a partition or files of it, to where they are needed again',
    load: () => import('./restore.js'),
  },
  {
    name: 'mirror',
    summary: 'a copy of a volume on a disk or in a file, kept current in place',
    load: () => import('./mirror.js'),
  },
  {
    name: 'diff',
    summary: 'two points side by side: sectors, or files',
    load: () => import('./diff.js'),
  },
  {
    name: 'consolidate',
    summary: 'take points out of a history; those that are kept stay what they are',
    load: () => import('./consolidate.js'),
  },
];
