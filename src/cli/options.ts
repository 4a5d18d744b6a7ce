/**
 * Options that several commands have, and what they say in words.
 */
import type { Command } from 'commander';
import { AsofError } from '../errors.js';
import type { ImageOptions } from '../service.js';
import { parseSize } from './size.js';

export interface JsonFlag {
  readonly json?: boolean;
}

/** Of every command that opens an image. */
export interface ImageFlags extends JsonFlag {
  readonly search?: readonly string[];
  readonly format?: string;
  readonly parentFormat?: string;
  readonly cache?: number;
}

/** A parser of an argument that must not be empty: an empty one, of a variable that is not set, would mean this folder. */
export function named(what: string): (text: string) => string {
  return text => {
    if (text !== '') return text;
    throw new AsofError('USAGE', `${what} is empty`, 'is a variable of your script not set?');
  };
}

export function withJson(command: Command): Command {
  return command.option('--json', 'answer, and report an error, as JSON');
}

/** The table of formats (src/image/format.ts) in words, without loading it for help alone; a test compares the two. */
const FORMAT_NAMES = 'qcow2, qcow, vhd, vhdx, vdi, vmdk, ewf, ewf2, parallels, dmg, aff4, split-raw, raw';

/** What `--format` says of itself. */
export function formatHelp(what: string): string {
  return `the format of ${what} (recognised unless given): ${FORMAT_NAMES}`;
}

/** FILE, and how it is opened. */
export function withImage(command: Command): Command {
  return command
    .argument('<FILE>', 'the image; of a chain, its newest member', named('FILE'))
    .option(
      '--search <DIR>',
      'a folder in which parents may be found, after that of the image; repeatable',
      (folder: string, before: readonly string[] = []) => [...before, named('--search')(folder)],
    )
    .option('--format <NAME>', formatHelp('FILE'))
    .option('--parent-format <NAME>', 'the format of a parent of which nothing tells it');
}

/** `--point`, of commands that look at one point. */
export function withPoint(command: Command): Command {
  return command.option(
    '--point <ID>',
    'the id, name or moment of a point, or @TIME for the newest at or before it (the newest point unless given)',
  );
}

export function withCache(command: Command): Command {
  return command.option(
    '--cache <SIZE>',
    'bytes of unpacked blocks to keep, such as 64M or 1G (128M unless given)',
    text => parseSize(text, '--cache'),
  );
}

export function imageOptions(flags: ImageFlags): ImageOptions {
  return {
    search: flags.search ?? [],
    format: flags.format,
    parentFormat: flags.parentFormat,
    ...(flags.cache === undefined ? {} : { cacheBytes: flags.cache }),
  };
}
