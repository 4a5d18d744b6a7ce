/**
 * The routes of the API, in the order of docs/api.md. A new one is one entry here. What a handler throws becomes an answer
 * in http.ts.
 */
import type { ChangesQuery, LiveVolumes, MomentRequest, VolumeRequest } from '../volumes.js';
import { changesDocument } from './changes.js';
import { drain, leaseDocument } from './leases.js';
import * as schema from './schema.js';

export interface Route {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** Below /v1. */
  readonly path: string;
  readonly summary: string;
  readonly params?: object;
  readonly query?: object;
  readonly body?: object;
  /** Its schema; absent where the answer is a stream of JSON. */
  readonly answer?: object;
  readonly handle: (live: LiveVolumes, request: Request) => unknown;
}

/** Checked by the route's schemas. */
interface Request {
  readonly params: unknown;
  readonly query: unknown;
  readonly body: unknown;
}

const nameOf = ({ params }: Request) => (params as { name: string }).name;
const consumerOf = ({ params }: Request) => (params as { consumer: string }).consumer;
const idOf = ({ params }: Request) => (params as { id: string }).id;

function momentOf({ body }: Request) {
  const { volumes, provider, providers, ...moment } = body as {
    volumes: string[];
    provider?: string;
    providers?: string[];
  } & MomentRequest;
  return { volumes, order: providers ?? (provider === undefined ? undefined : [provider]), moment };
}

export const ROUTES: readonly Route[] = [
  {
    method: 'GET',
    path: '/daemon',
    summary: 'the daemon: its process, state directory, mount',
    answer: schema.DAEMON,
    handle: live => ({
      pid: process.pid,
      state: live.state.path,
      mount: live.mounted?.mountPoint ?? null,
      driver: live.driver ?? null,
      volumes: live.volumes.list().length,
      groups: Object.fromEntries(live.volumes.groups),
    }),
  },
  {
    method: 'GET',
    path: '/volumes',
    summary: 'every volume, by name',
    answer: schema.VOLUMES,
    handle: live => live.volumes.list().map(volume => live.info(volume)),
  },
  {
    method: 'POST',
    path: '/volumes',
    summary: 'protect an origin',
    body: schema.ADD_BODY,
    answer: schema.VOLUME,
    handle: async (live, { body }) => live.info(await live.volumes.add(body as VolumeRequest)),
  },
  {
    method: 'GET',
    path: '/volumes/:name',
    summary: 'one volume',
    params: schema.NAME_PARAMS,
    answer: schema.VOLUME,
    handle: (live, request) => live.info(live.volumes.get(nameOf(request))),
  },
  {
    method: 'DELETE',
    path: '/volumes/:name',
    summary: 'protect it no longer; with `force=true` its snapshots go too',
    params: schema.NAME_PARAMS,
    query: schema.REMOVE_QUERY,
    answer: schema.VOLUME,
    async handle(live, request) {
      const { force = false } = request.query as { force?: boolean };
      return live.info(await live.remove(nameOf(request), { force }));
    },
  },
  {
    method: 'GET',
    path: '/volumes/:name/changes',
    summary: 'what changed `since` a snapshot or since it was `added`, or for a `consumer`; `until` another',
    params: schema.NAME_PARAMS,
    query: schema.CHANGES_QUERY,
    handle: (live, request) => changesDocument(live.changes(nameOf(request), request.query as ChangesQuery)),
  },
  {
    method: 'PUT',
    path: '/volumes/:name/consumers/:consumer',
    summary: 'the consumer has that snapshot from now on',
    params: schema.CONSUMER_PARAMS,
    body: schema.MARK_BODY,
    answer: schema.MARKER,
    handle(live, request) {
      const { snapshot } = request.body as { snapshot: string };
      return live.volumes.mark(nameOf(request), consumerOf(request), snapshot);
    },
  },
  {
    method: 'DELETE',
    path: '/volumes/:name/consumers/:consumer',
    summary: 'the consumer has nothing, and is forgotten',
    params: schema.CONSUMER_PARAMS,
    answer: schema.MARKER,
    handle: (live, request) => live.volumes.unmark(nameOf(request), consumerOf(request)),
  },
  {
    method: 'GET',
    path: '/volumes/:name/activity',
    summary: 'counters, rates, and when the store will be full',
    params: schema.NAME_PARAMS,
    answer: schema.ACTIVITY,
    handle: (live, request) => ({
      volume: live.volumes.get(nameOf(request)).name,
      ...live.volumes.activity(nameOf(request)),
    }),
  },
  {
    method: 'GET',
    path: '/snapshots',
    summary: 'every snapshot, oldest first; of one volume with `volume`',
    query: schema.LIST_QUERY,
    answer: schema.SNAPSHOTS,
    async handle(live, { query }) {
      await live.volumes.refresh();
      return live.volumes.snapshots((query as { volume?: string }).volume);
    },
  },
  {
    method: 'POST',
    path: '/snapshots',
    summary: 'one moment of one or more volumes',
    body: schema.SNAPSHOT_BODY,
    answer: schema.SNAPSHOTS,
    handle(live, request) {
      const { volumes, order, moment } = momentOf(request);
      return live.snapshot(volumes, order, moment);
    },
  },
  {
    method: 'GET',
    path: '/snapshots/:id',
    summary: 'the snapshot of that id, or those of the group',
    params: schema.ID_PARAMS,
    answer: schema.SNAPSHOTS,
    async handle(live, request) {
      await live.volumes.refresh();
      return live.volumes.show(idOf(request));
    },
  },
  {
    method: 'DELETE',
    path: '/snapshots/:id',
    summary:
      'delete the snapshot of that id, or those of the group; with `force=true` also while somebody reads it',
    params: schema.ID_PARAMS,
    query: schema.REMOVE_QUERY,
    answer: schema.SNAPSHOTS,
    handle(live, request) {
      const { force = false } = request.query as { force?: boolean };
      return live.deleteSnapshot(idOf(request), { force });
    },
  },
  {
    method: 'POST',
    path: '/snapshots/:id/overlay',
    summary: 'a writable view of it, on top of which it stays what it is',
    params: schema.ID_PARAMS,
    body: schema.OVERLAY_BODY,
    answer: schema.SNAPSHOT,
    handle: (live, request) => live.addOverlay(idOf(request), (request.body as { layer?: string }).layer),
  },
  {
    method: 'DELETE',
    path: '/snapshots/:id/overlay',
    summary: 'take the writable view away; refused while it is open',
    params: schema.ID_PARAMS,
    answer: schema.SNAPSHOT,
    handle: (live, request) => live.dropOverlay(idOf(request)),
  },
  {
    method: 'POST',
    path: '/snapshots/:id/release',
    summary: 'these extents are taken over: keep them no longer',
    params: schema.ID_PARAMS,
    body: schema.RELEASE_BODY,
    answer: schema.SNAPSHOT,
    handle(live, request) {
      const { extents } = request.body as { extents: { start: number; length: number }[] };
      const runs = Float64Array.from(extents.flatMap(({ start, length }) => [start, length]));
      return live.volumes.release(idOf(request), runs);
    },
  },
  {
    method: 'POST',
    path: '/leases',
    summary: 'one moment that is the asker’s own, for as long as he takes the answer',
    body: schema.SNAPSHOT_BODY,
    async handle(live, request) {
      const { volumes, order, moment } = momentOf(request);
      return leaseDocument(live, await live.leases.begin(volumes, order, moment));
    },
  },
  {
    method: 'POST',
    path: '/leases/:id/drain',
    summary:
      'these extents of a snapshot of the lease are taken over: keep them no longer; what is kept for it?',
    params: schema.ID_PARAMS,
    body: schema.DRAIN_BODY,
    answer: schema.DRAINED,
    handle: (live, request) => drain(live, idOf(request), request.body as Parameters<typeof drain>[2]),
  },
  {
    method: 'DELETE',
    path: '/leases/:id',
    summary: 'the lease is over: its snapshots go, and its last command runs',
    params: schema.ID_PARAMS,
    answer: schema.LEASE_END,
    async handle(live, request) {
      const lease = live.leases.get(idOf(request));
      lease.end();
      return { lease: lease.id, marks: await lease.over };
    },
  },
  {
    method: 'GET',
    path: '/jobs',
    summary: 'jobs under way, and those that failed or were interrupted; the newest first',
    answer: schema.JOBS,
    handle: live => live.volumes.jobs(),
  },
  {
    method: 'GET',
    path: '/jobs/:id',
    summary: 'one job: its timeline, providers, commands, and why it failed',
    params: schema.ID_PARAMS,
    answer: schema.JOB,
    handle: (live, request) => live.volumes.job(idOf(request)),
  },
  {
    method: 'GET',
    path: '/options',
    summary: 'what volumes and snapshots are like that do not say: shipped, saved, current',
    answer: schema.OPTIONS,
    handle: live => live.options.info(),
  },
  {
    method: 'PUT',
    path: '/options',
    summary: 'these count until the daemon ends, or until they are reset',
    body: schema.OPTIONS_BODY,
    answer: schema.OPTIONS,
    handle: (live, { body }) => live.options.set((body as { values: Record<string, unknown> }).values),
  },
  {
    method: 'POST',
    path: '/options/save',
    summary: 'what was set is saved, and counts after a restart too',
    answer: schema.OPTIONS,
    handle: live => live.options.save(),
  },
  {
    method: 'POST',
    path: '/options/reset',
    summary: 'current ones are what they were at the start: as saved',
    body: schema.KEYS_BODY,
    answer: schema.OPTIONS,
    handle: (live, { body }) => live.options.reset((body as { keys?: string[] }).keys),
  },
  {
    method: 'POST',
    path: '/options/restore-defaults',
    summary: 'saved and current ones are as shipped',
    body: schema.KEYS_BODY,
    answer: schema.OPTIONS,
    handle: (live, { body }) => live.options.restore((body as { keys?: string[] }).keys),
  },
  {
    method: 'GET',
    path: '/schedules',
    summary: 'every schedule, by name: next run, last run, exposure',
    answer: schema.SCHEDULES,
    handle: live => live.schedules.list(),
  },
  {
    method: 'GET',
    path: '/schedules/:name',
    summary: 'one schedule',
    params: schema.NAME_PARAMS,
    answer: schema.SCHEDULE,
    handle: (live, request) => live.schedules.show(nameOf(request)),
  },
  {
    method: 'POST',
    path: '/schedules/:name/run',
    summary: 'run it now; answers when it is over',
    params: schema.NAME_PARAMS,
    answer: schema.SCHEDULE,
    handle: (live, request) => live.schedules.run(nameOf(request)),
  },
  {
    method: 'POST',
    path: '/schedules/:name/pause',
    summary: 'it does not run by itself until it is resumed',
    params: schema.NAME_PARAMS,
    answer: schema.SCHEDULE,
    handle: (live, request) => live.schedules.pause(nameOf(request)),
  },
  {
    method: 'POST',
    path: '/schedules/:name/resume',
    summary: 'it does again; what would have run meanwhile is not made up for',
    params: schema.NAME_PARAMS,
    answer: schema.SCHEDULE,
    handle: (live, request) => live.schedules.resume(nameOf(request)),
  },
];
