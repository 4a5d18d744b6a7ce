/** `asof options`: what volumes and snapshots are like that do not say otherwise. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { AsofError } from '../errors.js';
import { checkOption, OPTIONS, type OptionSpec, optionNamed } from '../option-schema.js';
import type { OptionRow, OptionsInfo } from '../options.js';
import { Client } from './client.js';
import { columns, printable } from './columns.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { humanSize, parseSize } from './size.js';
import { type StateFlags, withState } from './state.js';

export function define(command: Command): void {
  const width = OPTIONS.reduce((most, { key }) => Math.max(most, key.length), 0);
  command.addHelpText(
    'after',
    `
Shipped is what asof comes with, saved what you have made your own, current what counts in the running daemon: what was set
since it started, else what its configuration file says, else saved, else shipped. With --json the answers are JSON.

${OPTIONS.map(({ key, description }) => `  ${key.padEnd(width)}  ${description}\n`).join('')}${examples([
  'asof options show',
  'asof options set consistency filesystem',
  'asof options save',
  'asof options restore-defaults',
])}`,
  );
  withState(command.command('show'))
    .description('every option: shipped, saved, current, and where that comes from')
    .addHelpText('after', examples(['asof options show']))
    .action((flags: StateFlags) => answer(flags, new Client(flags).ask('GET', '/options')));
  withState(command.command('set'))
    .description('counts until the daemon ends, unless it is saved')
    .argument('<KEY>', 'the option')
    .argument('<VALUE>', 'its value; several of a list with commas between')
    .addHelpText(
      'after',
      examples(['asof options set storeLimit 50G', 'asof options set providers reflink,cow']),
    )
    .action((key: string, text: string, flags: StateFlags) => {
      const values = { [key]: meantBy(optionNamed(key), text) };
      return answer(flags, new Client(flags).ask('PUT', '/options', { values }));
    });
  withState(command.command('save'))
    .description('make what was set your default, also after a restart')
    .addHelpText('after', examples(['asof options save']))
    .action((flags: StateFlags) => answer(flags, new Client(flags).ask('POST', '/options/save')));
  withState(command.command('reset'))
    .description('put current ones back to the saved defaults')
    .argument('[KEY...]', 'these (all of them unless given)')
    .addHelpText('after', examples(['asof options reset', 'asof options reset quiet']))
    .action((keys: string[], flags: StateFlags) =>
      answer(flags, new Client(flags).ask('POST', '/options/reset', bodyOf(keys))),
    );
  withState(command.command('restore-defaults'))
    .description('put current and saved ones back to what asof ships with; what you saved is forgotten')
    .argument('[KEY...]', 'these (all of them unless given)')
    .addHelpText('after', examples(['asof options restore-defaults', 'asof options restore-defaults stores']))
    .action((keys: string[], flags: StateFlags) =>
      answer(flags, new Client(flags).ask('POST', '/options/restore-defaults', bodyOf(keys))),
    );
}

function bodyOf(keys: readonly string[]) {
  for (const key of keys) optionNamed(key);
  return keys.length === 0 ? {} : { keys };
}

/** Throws USAGE. */
function meantBy({ key, kind, choices, description }: OptionSpec, text: string): unknown {
  const value = () => {
    if (kind === 'size') return parseSize(text, key);
    if (kind === 'number') return text.trim() === '' ? Number.NaN : Number(text);
    if (kind === 'path') return text === '' ? text : resolve(text);
    if (kind === 'choices') return text.split(',').map(one => one.trim());
    if (kind !== 'flag') return text;
    return { true: true, yes: true, on: true, false: false, no: false, off: false }[text];
  };
  const meant = value();
  if (meant === undefined || Number.isNaN(meant)) {
    const allowed = kind === 'flag' ? 'yes or no' : 'a number';
    throw new AsofError('USAGE', `${key} is ${JSON.stringify(text)}; it must be ${allowed}`, description);
  }
  const unknown = kind === 'choices' && (meant as string[]).find(one => !choices.includes(one));
  if (unknown !== false && unknown !== undefined) {
    throw new AsofError(
      'USAGE',
      `${key} has ${JSON.stringify(unknown)}; there are ${choices.join(', ')}`,
      description,
    );
  }
  checkOption(key, meant);
  return meant;
}

async function answer(flags: StateFlags, asked: Promise<OptionsInfo>): Promise<void> {
  const told = await asked;
  if (flags.json) {
    await writeJson(told);
    return;
  }
  const rows = told.options.map(row => [
    row.key,
    shown(row, row.shipped),
    row.saved === null ? '' : shown(row, row.saved),
    shown(row, row.current),
    row.source === 'configuration' ? row.where : row.source,
  ]);
  await write(columns(['OPTION', 'SHIPPED', 'SAVED', 'CURRENT', 'FROM'], ['<', '<', '<', '<', '<'], rows));
  for (const row of told.options) {
    const { key, source, where, saved } = row;
    if (where === '' || (source === 'configuration' && saved === null)) continue;
    process.stderr.write(`asof: ${printable(`${key}: ${where} counts more than what is saved or reset`)}\n`);
  }
  if (told.trouble) process.stderr.write(`asof: ${printable(told.trouble)}\n`);
}

function shown({ kind }: OptionRow, value: OptionRow['current']): string {
  if (value === null) return '-';
  if (kind === 'size') return value === 0 ? '0' : humanSize(value as number);
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  return Array.isArray(value) ? value.join(',') : String(value);
}
