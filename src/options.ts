/**
 * The options of volumes and snapshots that do not say otherwise. Three things are kept apart:
 *
 *   shipped   what asof comes with (docs/config.schema.json)
 *   saved     the user's own defaults, in options.json of the state directory
 *   current   what counts now, in this daemon: what was set since it started, else what the configuration file says, else
 *             saved, else shipped
 *
 * The configuration file counts more than what is saved: it is what an administrator wrote down for this machine, and a file
 * that says one thing while another holds helps nobody. Where the two differ, it is said.
 */
import { join } from 'node:path';
import { checkRequest, type VolumeDefaults } from './cow/definition.js';
import type { SnapshotPolicy } from './cow/policy.js';
import type { MomentRequest } from './cow/quiesce.js';
import { readState, writeState } from './cow/state-file.js';
import { AsofError } from './errors.js';
import type { Logger } from './log.js';
import { COMMANDS, requestOf } from './moment-request.js';
import { checkOption, OPTIONS, type OptionKey, type OptionValues, optionNamed } from './option-schema.js';

const KIND = 'options';

export interface Configured {
  readonly values: OptionValues;
  /** Of each key, for people: the file and line that say so. */
  readonly where: Readonly<Record<string, string>>;
}

type Value = OptionValues[OptionKey];

/** null is "nothing": as the description says. */
export interface OptionRow {
  readonly key: OptionKey;
  readonly description: string;
  readonly kind: string;
  readonly shipped: Value | null;
  readonly saved: Value | null;
  readonly current: Value | null;
  readonly source: 'set' | 'configuration' | 'saved' | 'shipped';
  /** The file and line of the configuration; '' where it does not name the option. */
  readonly where: string;
}

export interface OptionsInfo {
  readonly options: readonly OptionRow[];
  /** Why what was saved is not known; '' where it is. */
  readonly trouble: string;
}

export class Options {
  readonly #path: string;
  readonly #configured: Configured;
  #saved: OptionValues;
  #set: OptionValues = {};
  #trouble: string;

  /** What is in the file and is no option any more, or no longer allowed, is told and left out. */
  constructor(folder: string, configured: Configured | undefined, log: Logger) {
    this.#path = join(folder, 'options.json');
    this.#configured = configured ?? { values: {}, where: {} };
    const read = readState<{ values: OptionValues }>(this.#path, KIND);
    const troubles: string[] = [];
    const known: [string, unknown][] = [];
    if ('body' in read) {
      for (const [key, value] of Object.entries(read.body.values)) {
        try {
          checkOption(key, value);
          known.push([key, value]);
        } catch (error) {
          troubles.push((error as Error).message);
        }
      }
    } else if (!read.missing) troubles.push(read.trouble);
    this.#saved = Object.fromEntries(known);
    this.#trouble = troubles.length === 0 ? '' : `not all that was saved holds: ${troubles.join('; ')}`;
    if (this.#trouble) log.warn(this.#trouble);
  }

  info(): OptionsInfo {
    return { options: OPTIONS.map(({ key }) => this.#row(key)), trouble: this.#trouble };
  }

  #row(key: OptionKey): OptionRow {
    const { description, kind, shipped } = optionNamed(key);
    const { values, where } = this.#configured;
    const [source, current] =
      this.#set[key] !== undefined
        ? (['set', this.#set[key]] as const)
        : values[key] !== undefined
          ? (['configuration', values[key]] as const)
          : this.#saved[key] !== undefined
            ? (['saved', this.#saved[key]] as const)
            : (['shipped', shipped] as const);
    return {
      key,
      description,
      kind,
      shipped: shipped ?? null,
      saved: this.#saved[key] ?? null,
      current: current ?? null,
      source,
      where: where[key] ?? '',
    };
  }

  /** Of this daemon, up to its end. Throws USAGE, and nothing has changed. */
  set(values: Readonly<Record<string, unknown>>): OptionsInfo {
    for (const [key, value] of Object.entries(values)) {
      checkOption(key, value);
      const { kind } = optionNamed(key);
      // Whoever speaks to the daemon has another folder, and says bytes.
      const wrong =
        kind === 'path' && !String(value).startsWith('/')
          ? 'an absolute path'
          : kind === 'size' && typeof value !== 'number'
            ? 'a number of bytes'
            : '';
      if (wrong) throw new AsofError('USAGE', `${key} is ${JSON.stringify(value)}; it must be ${wrong}`);
    }
    const before = this.#set;
    this.#set = { ...before, ...values };
    try {
      checkTogether(this.#current());
    } catch (error) {
      this.#set = before;
      throw error;
    }
    return this.info();
  }

  /** What was set is the user's default from now on. Throws IO, and nothing has changed. */
  save(): OptionsInfo {
    this.#store({ ...this.#saved, ...this.#set });
    // Of what the configuration names, what was set counts on until the end.
    this.#set = only(this.#set, key => this.#configured.values[key] !== undefined);
    return this.info();
  }

  /** Back to what counts at a start; of all options or of these. Throws USAGE. */
  reset(keys?: readonly string[]): OptionsInfo {
    const wanted = keysOf(keys);
    this.#set = only(this.#set, key => !wanted.has(key));
    return this.info();
  }

  /** Current and saved ones are as shipped, but for what the configuration says; all or these. Throws USAGE or IO. */
  restore(keys?: readonly string[]): OptionsInfo {
    const wanted = keysOf(keys);
    this.#store(only(this.#saved, key => !wanted.has(key)));
    this.#set = only(this.#set, key => !wanted.has(key));
    return this.info();
  }

  #store(values: OptionValues): void {
    writeState(this.#path, KIND, { values });
    this.#saved = values;
    this.#trouble = '';
  }

  #current(): OptionValues {
    const rows = OPTIONS.map(({ key }) => this.#row(key)).filter(({ current }) => current !== null);
    return Object.fromEntries(rows.map(({ key, current }) => [key, current]));
  }

  volumeDefaults(): VolumeDefaults {
    const { chunk, durability, onCowError, cowTimeout, storeLimit, stores } = this.#current();
    return {
      chunkSize: chunk!,
      durability: durability!,
      onCowError: onCowError!,
      cowTimeoutMs: Math.round(cowTimeout! * 1000),
      storeLimit: storeLimit!,
      ...(stores === undefined ? {} : { stores }),
    };
  }

  /** What takes the snapshots of volumes and groups that have nothing of their own. */
  policy(): SnapshotPolicy {
    const { providers, lvmSize } = this.#current();
    return {
      ...(providers === undefined ? {} : { providers }),
      ...(lvmSize === undefined ? {} : { lvmSize }),
    };
  }

  /** With what it does not say itself. A request with a command of its own has none of the options'. */
  moment(request: MomentRequest): MomentRequest {
    const { quietMs, commands = {}, ...asked } = request;
    const current = this.#current();
    const defaults = requestOf(current);
    const own = COMMANDS.some(key => commands[key] !== undefined) || commands.shell !== undefined;
    const timeoutMs = commands.timeoutMs ?? current.commandTimeout! * 1000;
    const { quietMs: usual, ...rest } = defaults;
    const quiet = quietMs ?? usual ?? 0;
    return {
      ...rest,
      ...asked,
      ...(quiet > 0 ? { quietMs: quiet } : {}),
      commands: own ? { ...commands, timeoutMs } : { ...defaults.commands, timeoutMs },
    };
  }
}

/** What is allowed alone need not be together: a chunk and a limit. Throws USAGE. */
export function checkTogether({ chunk, storeLimit }: OptionValues): void {
  checkRequest({
    name: 'any',
    origin: '/',
    ...(chunk === undefined ? {} : { chunkSize: chunk }),
    ...(storeLimit === undefined ? {} : { storeLimit }),
  });
}

function only(values: OptionValues, wanted: (key: OptionKey) => boolean): OptionValues {
  return Object.fromEntries(Object.entries(values).filter(([key]) => wanted(key as OptionKey)));
}

function keysOf(keys: readonly string[] | undefined): ReadonlySet<string> {
  return new Set((keys ?? OPTIONS.map(({ key }) => key)).map(key => optionNamed(key).key));
}
