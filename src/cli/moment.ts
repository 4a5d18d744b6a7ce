/** What is asked of a moment (`asof snapshot create`), and how one came about (`asof snapshot show`). */
import { type Command, Option } from 'commander';
import { AsofError } from '../errors.js';
import { requestOf } from '../moment-request.js';
import type { MomentRequest, ShownSnapshot } from '../volumes.js';
import { printable } from './columns.js';
import { humanNanoseconds } from './duration.js';

export interface MomentFlags {
  readonly consistency?: NonNullable<MomentRequest['consistency']>;
  readonly quiet?: number;
  readonly quietDeadline?: number;
  readonly quietMissed?: 'fail' | 'crash';
  readonly deadline?: number;
  readonly prepareDeadline?: number;
  readonly freeze?: boolean;
  readonly separately?: boolean;
  readonly writer?: readonly Writer[];
  readonly beforeBackup?: string;
  readonly beforeSnapshot?: string;
  readonly afterSnapshot?: string;
  readonly afterBackup?: string;
  readonly shell?: boolean;
  readonly commandTimeout?: number;
}

interface Writer {
  readonly kind: string;
  readonly settings: Readonly<Record<string, string>>;
}

export function withMoment(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--consistency <CLASS>',
        'the least that is acceptable (what the writers grant, else crash, unless given)',
      ).choices(['application', 'filesystem', 'quiet', 'crash']),
    )
    .option(
      '--writer <KIND:SETTINGS>',
      'told to hold still: postgresql, mysql, mariadb, qemu, systemd, command, as KIND:NAME=VALUE,… or KIND:{JSON}; repeatable',
      (text: string, before: readonly Writer[] = []) => [...before, writerOf(text)],
    )
    .option('--freeze', 'freeze file systems on the volumes (done unless the options say otherwise)')
    .option('--no-freeze', 'freeze none of them')
    .option('--quiet <SECONDS>', 'wait for so long a time without a write; 0 for none', seconds('--quiet', 0))
    .option(
      '--quiet-deadline <SECONDS>',
      'wait no longer for that (60 unless given)',
      seconds('--quiet-deadline'),
    )
    .addOption(
      new Option(
        '--quiet-missed <OUTCOME>',
        'what becomes of it then (fail unless given; crash: taken all the same)',
      ).choices(['fail', 'crash']),
    )
    .option(
      '--prepare-deadline <SECONDS>',
      'what writers may take to prepare (120 unless given)',
      seconds('--prepare-deadline'),
    )
    .option(
      '--deadline <SECONDS>',
      'for how long anybody is held at most (30 unless given)',
      seconds('--deadline'),
    )
    .option('--separately', 'a moment of each volume, in one job')
    .option('--before-backup <COMMAND>', 'run first; where it fails, nothing is taken')
    .option('--before-snapshot <COMMAND>', 'run before each moment; where it fails, nothing is taken')
    .option('--after-snapshot <COMMAND>', 'run as soon as nobody is held any more')
    .option('--after-backup <COMMAND>', 'run last')
    .option('--shell', 'give these commands to /bin/sh')
    .option(
      '--command-timeout <SECONDS>',
      'what each command may take (300 unless given)',
      seconds('--command-timeout'),
    );
}

export function momentBody(flags: MomentFlags): MomentRequest {
  const { separately, writer } = flags;
  return {
    ...requestOf(flags),
    ...(separately === undefined ? {} : { separately }),
    ...(writer === undefined ? {} : { writers: writer }),
  };
}

function seconds(option: string, least?: number): (text: string) => number {
  return text => {
    const value = Number(text);
    if (text.trim() !== '' && (value > 0 || value === least) && value <= 86400) return value;
    throw new AsofError(
      'USAGE',
      `${option} cannot be ${JSON.stringify(text)}`,
      'seconds, more than 0, up to 86400',
    );
  };
}

/** `KIND`, `KIND:NAME=VALUE,NAME=VALUE`, or, where a value has a comma, `KIND:{"NAME":"VALUE"}`. */
function writerOf(text: string): Writer {
  const colon = text.indexOf(':');
  const kind = colon < 0 ? text : text.slice(0, colon);
  const rest = colon < 0 ? '' : text.slice(colon + 1);
  const wrong = (why: string) =>
    new AsofError(
      'USAGE',
      `--writer ${JSON.stringify(text)}: ${why}`,
      'docs/consistency.md lists the writers',
    );
  if (rest.startsWith('{')) {
    let value: unknown;
    try {
      value = JSON.parse(rest);
    } catch (error) {
      throw wrong((error as Error).message);
    }
    const settings = Object.entries(value as object).map(([name, one]) => [name, String(one)]);
    return { kind, settings: Object.fromEntries(settings) };
  }
  const settings: Record<string, string> = {};
  for (const part of rest === '' ? [] : rest.split(',')) {
    const equals = part.indexOf('=');
    if (equals < 1) throw wrong(`${JSON.stringify(part)} is no NAME=VALUE`);
    settings[part.slice(0, equals)] = part.slice(equals + 1);
  }
  return { kind, settings };
}

type Shown = NonNullable<ShownSnapshot['record']>;

/** Below what `asof snapshot show` says of the snapshot itself. */
export function describeMoment(record: Shown): string {
  const lines = [
    `asked for    at least ${record.asked}${record.why && `; it is no more because ${record.why}`}`,
    ...section(
      'file systems',
      record.fileSystems.map(
        one => `${one.mountPoint} (${one.type}): ${one.held ? 'held' : `not held: ${one.why}`}`,
      ),
    ),
    ...timelineSection(record),
    ...section(
      'providers',
      record.providers.map(({ name, why }) => `${name}: ${why || 'took it'}`),
    ),
    ...commandsSection(record.commands),
    ...section('warnings', record.warnings),
    ...section(
      'notes',
      record.notes.flatMap(({ who, text }) => [`${who}:`, ...text.split('\n').map(line => `  | ${line}`)]),
    ),
    ...section('marked', record.marks),
  ];
  return lines.map(line => `${printable(line)}\n`).join('');
}

const ms = (value: number) => humanNanoseconds(value * 1e6);

/** States and steps in the order in which they came. */
export function timelineSection({ transitions, steps }: Pick<Shown, 'transitions' | 'steps'>): string[] {
  const lines = [
    ...transitions.map(({ state, after }) => ({ after, text: state })),
    ...steps.map(({ what, who, after, took, why }) => ({
      after,
      text: `  ${what} ${who}: ${ms(took)}${why && `, ${why}`}`,
    })),
  ];
  const told = lines
    .sort((a, b) => a.after - b.after)
    .map(({ after, text }) => `+${ms(after).padStart(10)}  ${text}`);
  return section('timeline', told);
}

/** Each with what it said. */
export function commandsSection(
  commands: readonly Pick<Shown['commands'][number], 'stage' | 'command' | 'why' | 'took' | 'output'>[],
): string[] {
  const told = commands.flatMap(({ stage, command, why, took, output }) => [
    `${stage} ${command}: ${why || 'succeeded'}, ${ms(took)}`,
    ...output
      .trimEnd()
      .split('\n')
      .filter(line => line !== '')
      .map(line => `  | ${line}`),
  ]);
  return section('commands', told);
}

export function section(name: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : [name, ...lines.map(line => `  ${line}`)];
}
