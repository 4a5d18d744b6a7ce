/**
 * The API: HTTP and JSON on a Unix socket that its owner alone may open. An error is the object that commands print too,
 * `{"error":{"code":…,"message":…,"hint":…}}`.
 */
import { chmodSync, unlinkSync } from 'node:fs';
import type { FastifyInstance } from 'fastify';
import { AsofError, type ErrorCode, errnoOf } from '../errors.js';
import type { Logger } from '../log.js';
import type { LiveVolumes } from '../volumes.js';
import { ROUTES } from './routes.js';

export const PREFIX = '/v1';

/** Bytes of a path that a socket may have (unix(7)). */
const SOCKET_PATH = 107;

const STATUS: Partial<Record<ErrorCode, number>> = {
  USAGE: 400,
  OUT_OF_RANGE: 400,
  NOT_FOUND: 404,
  VOLUME_UNKNOWN: 404,
  SNAPSHOT_UNKNOWN: 404,
  LEASE_UNKNOWN: 404,
  JOB_UNKNOWN: 404,
  VOLUME_EXISTS: 409,
  VOLUME_IN_USE: 409,
  SNAPSHOT_IN_USE: 409,
  ORIGIN_BUSY: 409,
  OVERLAY_IN_USE: 409,
  DAEMON_MISSING: 503,
};

/** Listens on `socket`. The caller has the state directory's lock, so that a socket that lies there is nobody's. */
export async function listen(live: LiveVolumes, socket: string, log: Logger): Promise<FastifyInstance> {
  if (Buffer.byteLength(socket) > SOCKET_PATH) {
    throw new AsofError(
      'STATE_UNUSABLE',
      `${socket} is longer than ${SOCKET_PATH} bytes, which a socket's path may have`,
    );
  }
  const { fastify } = await import('fastify');
  const app = fastify({
    loggerInstance: log,
    disableRequestLogging: true,
    forceCloseConnections: true,
    // A property that nobody knows is refused, not dropped.
    ajv: { customOptions: { removeAdditional: false } },
  }) as unknown as FastifyInstance;
  app.setErrorHandler((error: Error & { validation?: unknown; statusCode?: number }, request, reply) => {
    const known = asKnown(error);
    if (!known) log.error({ err: error, url: request.url }, 'a bug');
    const told = known ?? { code: 'BUG', message: error.stack ?? error.message, hint: '' };
    const status = known ? (STATUS[known.code] ?? 422) : 500;
    reply.code(status).send({ error: { code: told.code, message: told.message, hint: told.hint } });
  });
  app.setNotFoundHandler((request, reply) => {
    const message = `there is no ${request.method} ${request.url}`;
    reply.code(404).send({ error: { code: 'USAGE', message, hint: 'docs/api.md lists the routes' } });
  });
  // What a volume that is being closed, or is gone, could tell of itself is not how things are.
  app.addHook('onRequest', async () => {
    if (live.closed) throw new AsofError('DAEMON_MISSING', 'the daemon is being stopped');
  });
  for (const { method, path, params, query, body, answer, handle } of ROUTES) {
    app.route({
      method,
      url: `${PREFIX}${path}`,
      schema: {
        ...(params && { params }),
        ...(query && { querystring: query }),
        ...(body && { body }),
        ...(answer && { response: { 200: answer } }),
      },
      handler: async ({ params, query, body }, reply) => {
        if (!answer) reply.type('application/json; charset=utf-8');
        return handle(live, { params, query, body });
      },
    });
  }
  try {
    unlinkSync(socket);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
  // Between its making and the chmod nobody else can reach it: the directory is the owner's alone.
  await app.listen({ path: socket });
  chmodSync(socket, 0o600);
  return app;
}

function asKnown(error: Error & { validation?: unknown; statusCode?: number }): AsofError | undefined {
  if (error instanceof AsofError) return error;
  if (error.validation || (error.statusCode !== undefined && error.statusCode < 500)) {
    return new AsofError('USAGE', error.message, 'docs/api.md says what is allowed');
  }
  return undefined;
}
