/** JSON schemas of what the API takes and gives: fastify checks requests by them, docs/api.md names them. */
import { CONSISTENCIES, PROVIDER_NAMES } from '../volumes.js';

const text = { type: 'string', maxLength: 4096 } as const;
const count = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER } as const;
const flag = { type: 'boolean' } as const;
/** Milliseconds, up to a day. */
const period = { type: 'number', exclusiveMinimum: 0, maximum: 86_400_000 } as const;

function object(properties: Readonly<Record<string, unknown>>, required: readonly string[] = []) {
  return { type: 'object', additionalProperties: false, properties, required } as const;
}

export const NAME_PARAMS = object({ name: text }, ['name']);
export const CONSUMER_PARAMS = object({ name: text, consumer: text }, ['name', 'consumer']);
export const ID_PARAMS = object({ id: text }, ['id']);

export const ADD_BODY = object(
  {
    name: text,
    origin: { ...text, pattern: '^/' },
    store: { ...text, pattern: '^(/|memory$)' },
    storeLimit: count,
    chunkSize: count,
    durability: { enum: ['power', 'process'] },
    onCowError: { enum: ['break-snapshot', 'break-write'] },
    cowTimeoutMs: count,
  },
  ['name', 'origin'],
);

export const REMOVE_QUERY = object({ force: flag });

export const SNAPSHOT_BODY = object(
  {
    volumes: { type: 'array', items: text, minItems: 1, maxItems: 1024 },
    provider: { enum: PROVIDER_NAMES },
    providers: { type: 'array', items: { enum: PROVIDER_NAMES }, minItems: 1, uniqueItems: true },
    consistency: { enum: CONSISTENCIES },
    quietMs: { type: 'number', minimum: 0, maximum: 86_400_000 },
    quietDeadlineMs: period,
    quietMissed: { enum: ['fail', 'crash'] },
    prepareMs: period,
    holdMs: period,
    freeze: flag,
    separately: flag,
    writers: {
      type: 'array',
      maxItems: 64,
      items: object({ kind: text, settings: { type: 'object', additionalProperties: text } }, ['kind']),
    },
    commands: object({
      beforeBackup: text,
      beforeSnapshot: text,
      afterSnapshot: text,
      afterBackup: text,
      shell: flag,
      timeoutMs: period,
    }),
  },
  ['volumes'],
);

export const LIST_QUERY = object({ volume: text });
export const CHANGES_QUERY = object({ since: text, consumer: text, until: text });
export const MARK_BODY = object({ snapshot: text }, ['snapshot']);

export const RELEASE_BODY = object(
  { extents: { type: 'array', items: object({ start: count, length: count }, ['start', 'length']) } },
  ['extents'],
);

export const DRAIN_BODY = object(
  {
    snapshot: text,
    extents: {
      type: 'array',
      maxItems: 8192,
      items: object({ start: count, length: count }, ['start', 'length']),
    },
  },
  ['snapshot', 'extents'],
);

export const OVERLAY_BODY = object({ layer: { ...text, pattern: '^/' } });

/** Each value is held to docs/config.schema.json. */
export const OPTIONS_BODY = object({ values: { type: 'object' } }, ['values']);
export const KEYS_BODY = object({ keys: { type: 'array', items: text, maxItems: 100 } });

/** Of an answer: what it certainly has; more may come with later versions. */
function answer(...names: readonly string[]) {
  return { type: 'object', required: names, additionalProperties: true } as const;
}

const list = (items: unknown) => ({ type: 'array', items });

export const VOLUME = answer('id', 'name', 'state', 'why', 'origin', 'size', 'snapshots', 'tracking');
export const VOLUMES = list(VOLUME);
export const SNAPSHOT = answer(
  'id',
  'group',
  'volume',
  'moment',
  'at',
  'consistency',
  'state',
  'why',
  'holdNs',
  'switchNs',
);
export const SNAPSHOTS = list(SNAPSHOT);
export const MARKER = answer('consumer', 'snapshot', 'at', 'marked', 'state', 'why');
export const DRAINED = answer('extents');
export const LEASE_END = answer('lease', 'marks');
export const ACTIVITY = answer('volume', 'counters', 'rates', 'forecast');
export const DAEMON = answer('pid', 'state', 'mount', 'volumes');
export const JOB = answer(
  'job',
  'volumes',
  'state',
  'started',
  'ended',
  'code',
  'why',
  'moments',
  'commands',
);
export const JOBS = list(JOB);
export const OPTIONS = answer('options', 'trouble');
export const SCHEDULE = answer('name', 'volumes', 'timing', 'state', 'next', 'last', 'groups', 'exposure');
export const SCHEDULES = list(SCHEDULE);
