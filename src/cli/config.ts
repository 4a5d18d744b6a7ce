/**
 * The daemon's configuration file: YAML (JSON is a part of it), held to docs/config.schema.json, which is the one list of
 * what may stand in it. Whatever is wrong names its line.
 */
import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import type { ErrorObject } from 'ajv';
import { type Document, isMap, isNode, LineCounter, parseDocument } from 'yaml';
import { AsofError, errnoOf } from '../errors.js';
import type { LogLevel } from '../log.js';
import { CONFIG_SCHEMA, mustBe, OPTIONS, type OptionValues, validator } from '../option-schema.js';
import { type Configured, checkTogether } from '../options.js';
import { scheduleOf, timingFor, type WrittenSchedule } from '../schedules.js';
import type {
  DeclaredVolume,
  DriverName,
  OwnPolicies,
  Schedule,
  SnapshotPolicy,
  VolumeRequest,
} from '../volumes.js';
import { parseSize } from './size.js';

export interface Config {
  readonly state?: string;
  readonly mount?: string;
  readonly allowOther?: boolean;
  readonly driver?: DriverName;
  readonly logLevel?: LogLevel;
  readonly defaults: Configured;
  readonly volumes: readonly DeclaredVolume[];
  readonly groups: ReadonlyMap<string, readonly string[]>;
  readonly policies: OwnPolicies;
  readonly schedules: readonly Schedule[];
}

/** As it stands in the file; the schema has checked it. */
interface Written extends Pick<Config, 'state' | 'mount' | 'allowOther' | 'driver' | 'logLevel'> {
  readonly defaults?: WrittenDefaults;
  readonly volumes?: Readonly<
    Record<string, WrittenOptions & { readonly origin: string; readonly store?: string }>
  >;
  readonly groups?: Readonly<Record<string, readonly string[] | WrittenGroup>>;
  readonly schedules?: Readonly<Record<string, WrittenSchedule>>;
}

type WrittenDefaults = Readonly<Record<string, OptionValues[keyof OptionValues]>>;

interface WrittenGroup {
  readonly volumes: readonly string[];
  readonly providers?: readonly string[];
}

interface WrittenPolicy {
  readonly providers?: readonly string[];
  readonly lvmSize?: number | string;
}

interface WrittenOptions
  extends Pick<OptionValues, 'durability' | 'onCowError' | 'cowTimeout'>,
    WrittenPolicy {
  readonly chunk?: number | string;
  readonly storeLimit?: number | string;
}

const HINT = 'docs/config.md says what may stand there';

/** Throws NOT_FOUND, IO or USAGE. */
export function readConfig(path: string): Config {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT') throw new AsofError('NOT_FOUND', `${path} does not exist`, '', { cause: error });
    throw new AsofError('IO', `cannot read ${path}: ${errno}`, '', { cause: error });
  }
  return new ConfigFile(path, text).config();
}

class ConfigFile {
  readonly #path: string;
  readonly #lines = new LineCounter();
  readonly #document: Document;

  constructor(path: string, text: string) {
    this.#path = path;
    this.#document = parseDocument(text, { lineCounter: this.#lines, prettyErrors: false });
    const [error] = [...this.#document.errors, ...this.#document.warnings];
    if (error) {
      throw this.#wrong(this.#lines.linePos(error.pos[0]).line, error.message);
    }
  }

  config(): Config {
    // An empty file says nothing, which is allowed.
    const value = (this.#document.toJS() ?? {}) as Written;
    const validate = validator().compile(CONFIG_SCHEMA);
    if (!validate(value)) throw this.#refused(validate.errors!);
    const { defaults = {}, volumes = {}, groups = {}, schedules = {}, state, mount, ...rest } = value;
    return {
      ...rest,
      ...(state === undefined ? {} : { state: this.#absolute(state) }),
      ...(mount === undefined ? {} : { mount: this.#absolute(mount) }),
      defaults: this.#defaults(defaults),
      volumes: Object.entries(volumes).map(([name, { origin, store, ...options }]) => ({
        where: this.#where(this.#lineOf(['volumes', name], name)),
        request: {
          name,
          origin: this.#absolute(origin),
          ...(store === undefined ? {} : { store: store === 'memory' ? store : this.#absolute(store) }),
          ...this.#options(options, ['volumes', name]),
        },
      })),
      groups: new Map(
        Object.entries(groups).map(([name, group]) => [name, 'volumes' in group ? group.volumes : group]),
      ),
      policies: {
        volumes: new Map(
          Object.entries(volumes).map(([name, one]) => [name, this.#policy(one, ['volumes', name])]),
        ),
        groups: new Map(
          Object.entries(groups).map(([name, group]) => [
            name,
            'volumes' in group ? this.#policy(group, []) : {},
          ]),
        ),
      },
      schedules: Object.entries(schedules).map(([name, one]) => this.#schedule(name, one, groups)),
    };
  }

  #defaults(written: WrittenDefaults): Configured {
    const kinds = new Map<string, string>(OPTIONS.map(({ key, kind }) => [key, kind]));
    const entries = Object.entries(written).map(([key, value]) => {
      const kind = kinds.get(key);
      if (kind === 'size') return [key, this.#size(value as number | string, ['defaults'], key)];
      return [key, kind === 'path' ? this.#absolute(value as string) : value];
    });
    const where = Object.keys(written).map(key => [key, this.#where(this.#lineOf(['defaults'], key))]);
    const values = Object.fromEntries(entries) as OptionValues;
    const key = values.chunk === undefined ? 'storeLimit' : 'chunk';
    this.#checked(['defaults'], key, () => checkTogether(values));
    return { values, where: Object.fromEntries(where) };
  }

  #schedule(name: string, written: WrittenSchedule, groups: NonNullable<Written['groups']>): Schedule {
    const path = ['schedules', name];
    for (const [i, one] of written.volumes.entries()) {
      if (!one.startsWith('@') || Object.hasOwn(groups, one.slice(1))) continue;
      throw this.#wrong(this.#lineOf([...path, 'volumes', String(i)]), `there is no group ${one.slice(1)}`);
    }
    const timing = (['cron', 'every', 'timeZone'] as const).find(key => written[key] !== undefined);
    this.#checked(path, timing ?? name, () => timingFor(written));
    const backup = written.backup && {
      ...written.backup,
      to: this.#absolute(written.backup.to),
      ...(written.backup.rate === undefined
        ? {}
        : { rate: this.#size(written.backup.rate, [...path, 'backup'], 'rate') }),
    };
    const whole = { ...written, ...(backup && { backup }) };
    return this.#checked(path, written.writers ? 'writers' : name, () => scheduleOf(name, whole));
  }

  /** What `work` answers; what it refuses is told with the line of `key`. */
  #checked<T>(path: readonly string[], key: string, work: () => T): T {
    try {
      return work();
    } catch (error) {
      if (!(error instanceof AsofError)) throw error;
      const said = error.hint === '' ? error.message : `${error.message} (${error.hint})`;
      throw this.#wrong(this.#lineOf(path, key), `${path.join('.')}: ${said}`);
    }
  }

  /** What snapshots of it are taken with: unlike the options, of volumes that are there already too. */
  #policy({ providers, lvmSize }: WrittenPolicy, path: readonly string[]): SnapshotPolicy {
    return {
      ...(providers === undefined ? {} : { providers }),
      ...(lvmSize === undefined ? {} : { lvmSize: this.#size(lvmSize, path, 'lvmSize') }),
    };
  }

  #size(value: number | string, path: readonly string[], name: string): number {
    try {
      return parseSize(String(value), name);
    } catch (error) {
      throw this.#wrong(this.#lineOf([...path, name]), (error as Error).message);
    }
  }

  #options(
    { chunk, storeLimit, cowTimeout, providers: _, lvmSize: __, ...rest }: WrittenOptions,
    path: readonly string[],
  ): Omit<VolumeRequest, 'name' | 'origin' | 'store'> {
    return {
      ...rest,
      ...(chunk === undefined ? {} : { chunkSize: this.#size(chunk, path, 'chunk') }),
      ...(storeLimit === undefined ? {} : { storeLimit: this.#size(storeLimit, path, 'storeLimit') }),
      ...(cowTimeout === undefined ? {} : { cowTimeoutMs: Math.round(cowTimeout * 1000) }),
    };
  }

  #absolute(path: string): string {
    return resolve(dirname(resolve(this.#path)), path);
  }

  #refused(errors: readonly ErrorObject[]): AsofError {
    // Of a name that is wrong, ajv tells the rule first and then that it was a name.
    const error = errors.find(one => one.keyword === 'propertyNames') ?? errors[0]!;
    const path = error.instancePath.split('/').slice(1).map(unescapePointer);
    const shown = path.join('.');
    const { params } = error;
    const inside = shown === '' ? '' : ` in ${shown}`;
    switch (error.keyword) {
      case 'additionalProperties': {
        const name = String(params['additionalProperty']);
        const known = Object.keys(
          (error.parentSchema as { properties?: object } | undefined)?.properties ?? {},
        );
        const allowed = known.length > 0 ? `; there are ${known.join(', ')}` : '';
        return this.#wrong(
          this.#lineOf(path, name),
          `there is no setting ${JSON.stringify(name)}${inside}${allowed}`,
        );
      }
      case 'propertyNames': {
        const name = String(params['propertyName']);
        return this.#wrong(
          this.#lineOf(path, name),
          `the name ${JSON.stringify(name)} is not allowed${inside}`,
        );
      }
      case 'required':
        return this.#wrong(
          this.#lineOf(path, path.at(-1)),
          `${shown} has no ${String(params['missingProperty'])}`,
        );
      default:
        break;
    }
    const value: unknown = path.length === 0 ? this.#document.toJS() : this.#document.getIn(path);
    const told = isNode(value) ? value.toJSON() : value;
    const what = shown === '' ? 'the file' : shown;
    return this.#wrong(this.#lineOf(path), `${what} is ${JSON.stringify(told)}; it must be ${mustBe(error)}`);
  }

  /** The line of the value at `path`, or of the key `key` in it. */
  #lineOf(path: readonly string[], key?: string): number {
    const inside = key !== undefined && path.at(-1) === key ? path.slice(0, -1) : path;
    for (let depth = inside.length; depth >= 0; depth--) {
      const node = depth === 0 ? this.#document.contents : this.#document.getIn(inside.slice(0, depth), true);
      if (!isNode(node)) continue;
      const pair =
        key !== undefined && depth === inside.length && isMap(node)
          ? node.items.find(item => isNode(item.key) && String(item.key) === key)
          : undefined;
      const at = pair && isNode(pair.key) ? pair.key.range : node.range;
      if (at) return this.#lines.linePos(at[0]).line;
    }
    return 1;
  }

  #where(line: number): string {
    return `${this.#path}, line ${line}`;
  }

  #wrong(line: number, what: string): AsofError {
    return new AsofError('USAGE', `${this.#where(line)}: ${what}`, HINT);
  }
}

/** JSON Pointer, RFC 6901. */
function unescapePointer(part: string): string {
  return decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~');
}
