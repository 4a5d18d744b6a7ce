/**
 * The options as docs/config.schema.json has them, which is the one list of their names, kinds, ranges, words, and of what
 * asof ships with. The configuration, the daemon and the command line all ask here.
 */
import { readFileSync } from 'node:fs';
import { Ajv, type ErrorObject } from 'ajv';
import { AsofError } from './errors.js';

/** Sizes are bytes, times seconds, paths absolute. What is absent is as its description says. */
export interface OptionValues {
  readonly chunk?: number;
  readonly durability?: 'power' | 'process';
  readonly onCowError?: 'break-snapshot' | 'break-write';
  readonly cowTimeout?: number;
  readonly storeLimit?: number;
  readonly stores?: string;
  readonly providers?: readonly string[];
  readonly lvmSize?: number;
  readonly consistency?: 'application' | 'filesystem' | 'quiet' | 'crash';
  readonly quiet?: number;
  readonly quietDeadline?: number;
  readonly quietMissed?: 'fail' | 'crash';
  readonly prepareDeadline?: number;
  readonly deadline?: number;
  readonly freeze?: boolean;
  readonly beforeBackup?: string;
  readonly beforeSnapshot?: string;
  readonly afterSnapshot?: string;
  readonly afterBackup?: string;
  readonly shell?: boolean;
  readonly commandTimeout?: number;
}

export type OptionKey = keyof OptionValues;
export type OptionKind = 'size' | 'number' | 'choice' | 'choices' | 'flag' | 'path' | 'text';

export interface OptionSpec {
  readonly key: OptionKey;
  readonly kind: OptionKind;
  readonly description: string;
  /** Of a choice. */
  readonly choices: readonly string[];
  /** undefined where asof ships with none. */
  readonly shipped: OptionValues[OptionKey];
}

interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: OptionValues[OptionKey];
  readonly enum?: readonly string[];
  readonly items?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly definitions?: Readonly<Record<string, Schema>>;
}

/** The whole of it. */
export const CONFIG_SCHEMA = JSON.parse(
  readFileSync(new URL('../../docs/config.schema.json', import.meta.url), 'utf8'),
) as Schema;

const AT = '#/definitions/';

function specOf(key: string, written: Schema): OptionSpec {
  let schema = written;
  let description = '';
  let name = '';
  while (schema.$ref) {
    name = schema.$ref.slice(AT.length);
    schema = CONFIG_SCHEMA.definitions![name]!;
    description ||= schema.description ?? '';
  }
  const { enum: one, items, type } = schema;
  const kind: OptionKind =
    name === 'size' || name === 'path'
      ? name
      : one
        ? 'choice'
        : items
          ? 'choices'
          : type === 'boolean'
            ? 'flag'
            : type === 'number'
              ? 'number'
              : 'text';
  return {
    key: key as OptionKey,
    kind,
    description,
    choices: one ?? items?.enum ?? [],
    shipped: written.default,
  };
}

/** In the order of the schema. */
export const OPTIONS: readonly OptionSpec[] = Object.entries(
  CONFIG_SCHEMA.properties!['defaults']!.properties!,
).map(([key, schema]) => specOf(key, schema));

/** Throws USAGE. */
export function optionNamed(key: string): OptionSpec {
  const spec = OPTIONS.find(one => one.key === key);
  if (spec) return spec;
  throw new AsofError(
    'USAGE',
    `there is no option ${JSON.stringify(key)}`,
    `there are ${OPTIONS.map(one => one.key).join(', ')}`,
  );
}

/** Throws USAGE, with what is allowed. */
export function checkOption(key: string, value: unknown): void {
  const { description } = optionNamed(key);
  const validate = validator().compile({
    definitions: CONFIG_SCHEMA.definitions,
    $ref: `${AT}${key}`,
  });
  if (validate(value)) return;
  throw new AsofError(
    'USAGE',
    `${key} is ${JSON.stringify(value)}; it must be ${mustBe(validate.errors![0]!)}`,
    description,
  );
}

export function validator(): Ajv {
  return new Ajv({ allowUnionTypes: true, verbose: true });
}

/** What ajv says is wrong, as what would be right. */
export function mustBe(error: ErrorObject): string {
  if (error.keyword === 'enum') return `one of ${(error.params['allowedValues'] as string[]).join(', ')}`;
  return (error.message ?? '').replace(/^must be /, '');
}
