/**
 * What a new image stands on, and how its changes are found: two decisions, each with its reason in words.
 */
import { AsofError } from '../errors.js';
import type { History, HistoryPoint } from './history.js';
import { unlike } from './left-out.js';
import { type ImageKind, joinRuns, type Manifest, type Method, type Run } from './manifest.js';
import type { Tree } from './tree.js';
import { storedDefects } from './verification.js';

/** Images that a chain may have before the next one is full: each more makes every read a little slower. */
const LONGEST = 512;

/** What a tracker says of the time since the snapshot of the base. */
export interface Changes {
  /** Bytes; undefined where it does not know. */
  readonly extents: readonly Run[] | undefined;
  readonly why: string;
}

/** Asks for what changed since the snapshot `since`. */
export type Tracker = (since: string) => Promise<Changes>;

export interface BaseRequest {
  readonly volume: string;
  readonly size: number;
  readonly clusterSize: number;
  /** Undefined: incremental where there is something to stand on, else full. */
  readonly kind: ImageKind | undefined;
  /** The point to stand on; undefined is the previous or the last full one, as the kind says. */
  readonly base: string | undefined;
  readonly method: 'auto' | 'tracked' | 'compared';
  readonly tracker: Tracker | undefined;
  /** What reads as zeros in the new image, in order, apart. */
  readonly leftOut: readonly Run[];
}

export interface Decision {
  readonly kind: ImageKind;
  readonly kindWhy: string;
  readonly base: HistoryPoint | undefined;
  readonly choice: NonNullable<Manifest['base']>['choice'];
  readonly tree: Tree | undefined;
  readonly method: Method;
  readonly methodWhy: string;
  /** What is to be read at least; undefined is all. */
  readonly extents: readonly Run[] | undefined;
  /** Stored whatever the base has there: what of it is damaged or bad. */
  readonly distrusted: readonly Run[];
}

/** Throws BASE_UNUSABLE, POINT_UNKNOWN. */
export async function decide(history: History, request: BaseRequest): Promise<Decision> {
  const full = (kindWhy: string): Decision => {
    if (request.method === 'tracked' && request.kind !== 'full') throw unusable(kindWhy);
    return {
      kind: 'full',
      kindWhy,
      base: undefined,
      choice: 'previous',
      tree: undefined,
      method: 'all',
      methodWhy: 'a full image holds everything in use',
      extents: undefined,
      distrusted: [],
    };
  };
  if (request.kind === 'full') {
    if (request.base === undefined) return full('it was asked for');
    throw new AsofError(
      'BASE_UNUSABLE',
      'a full image stands on nothing',
      '--kind incremental, or no --base',
    );
  }
  const points = history.of(request.volume);
  const chosen = request.base !== undefined;
  const wanted = request.kind ?? 'incremental';
  const base = chosen
    ? history.find(request.base!, points)
    : wanted === 'differential'
      ? points.findLast(({ manifest }) => manifest.kind === 'full')
      : points.at(-1);
  if (!base) return full('the history has no image of the volume to stand on');
  const { disk } = base.manifest;
  const reject = (why: string): Decision => {
    if (chosen) throw unusable(`${base.stem} cannot be the base: ${why}`);
    return full(why);
  };
  if (disk.size !== request.size)
    return reject(`the size has changed from ${disk.size} to ${request.size} bytes`);
  if (disk.clusterSize !== request.clusterSize)
    return reject(`its clusters are of ${disk.clusterSize} bytes`);
  let tree: Tree;
  let distrusted: Run[];
  try {
    const chain = history.chain(base);
    if (chain.length >= LONGEST) return reject(`its chain has ${chain.length} images already`);
    tree = history.tree(base);
    tree.page(0, 0);
    history.image(base);
    distrusted = joinRuns([...base.manifest.bad.runs, ...storedDefects(history, chain)]);
  } catch (error) {
    if (!(error instanceof AsofError)) throw error;
    return reject(error.message);
  }
  const choice = chosen ? 'chosen' : wanted === 'differential' ? 'full' : 'previous';
  const kindWhy = request.kind === undefined ? 'there is an image to stand on' : 'it was asked for';
  const common = { kind: wanted, kindWhy, base, choice, tree, distrusted } as const;
  const compared = (methodWhy: string): Decision => {
    if (request.method === 'tracked') throw unusable(methodWhy);
    return { ...common, method: 'compared', methodWhy, extents: undefined };
  };
  if (request.method === 'compared') return compared('it was asked for');
  const { snapshot } = base.manifest;
  if (!request.tracker) return compared('nothing tracks what is written to the source');
  if (snapshot === null) return compared(`${base.stem} was not read from a snapshot`);
  const { extents, why } = await request.tracker(snapshot);
  if (!extents) return compared(why);
  let leftOut: readonly Run[];
  try {
    leftOut = unlike(history.leftOut(base), request.leftOut);
  } catch (error) {
    if (!(error instanceof AsofError)) throw error;
    return compared(error.message);
  }
  // What the base left out and this one does not was there all the time, whoever wrote it.
  return { ...common, method: 'tracked', methodWhy: why, extents: [...extents, ...distrusted, ...leftOut] };
}

function unusable(what: string): AsofError {
  return new AsofError('BASE_UNUSABLE', what, '--method auto, or --kind full');
}
