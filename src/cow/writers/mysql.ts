/**
 * The writer `mysql`, MariaDB too: FLUSH TABLES WITH READ LOCK is held over the moment by a connection of its own. Whoever
 * wants to write waits for that. When the connection ends, for whatever reason, the server takes the lock back.
 */
import { Session } from './session.js';
import { secondsOf, type WriterHolder, type WriterKind } from './writer.js';

const SETTINGS = {
  'defaults-file': 'an option file with user and password',
  socket: 'the server’s socket',
  host: 'its host',
  port: 'its port',
  user: 'an account with RELOAD',
  'lock-timeout': 'seconds that the lock may take to come: long statements keep it away (30 unless set)',
  client: 'the program, `mariadb` or `mysql`, where it is not found by its name',
};

export const mysql: WriterKind = kindOf('mysql');
export const mariadb: WriterKind = kindOf('mariadb');

/** The client has the server's name. */
function kindOf(name: string): WriterKind {
  return {
    name,
    settings: SETTINGS,
    make: settings => make({ client: name, ...settings }),
  };
}

function make(settings: Readonly<Record<string, string>>): WriterHolder {
  const lockSeconds = Math.ceil(secondsOf(settings, 'lock-timeout', 30) / 1000);
  const client = settings['client'] ?? 'mysql';
  const argv = [
    client,
    // It must stand first.
    ...(settings['defaults-file'] === undefined ? [] : [`--defaults-file=${settings['defaults-file']}`]),
    ...(['socket', 'host', 'port', 'user'] as const).flatMap(name =>
      settings[name] === undefined ? [] : [`--${name}=${settings[name]}`],
    ),
    '--batch',
    '--skip-column-names',
    '--unbuffered',
    '--no-auto-rehash',
  ];
  let session: Session | undefined;
  let locked = false;
  return {
    name: `${client.split('/').at(-1)} ${settings['socket'] ?? settings['host'] ?? ''}`.trim(),
    grants: 'application',

    async prepare(signal) {
      session = new Session({ argv, env: {}, sentinel: mark => `SELECT '${mark}';` });
      await session.ask(`SET SESSION lock_wait_timeout = ${lockSeconds};`, signal);
      // What can be written now has not to be written under the lock.
      await session.ask('FLUSH LOCAL TABLES;', signal);
    },

    async hold(signal) {
      if (!session) throw new Error('it was not prepared');
      await session.ask('FLUSH TABLES WITH READ LOCK;', signal);
      locked = true;
    },

    async release(signal) {
      if (!session) return;
      try {
        if (session.ended) throw new Error(session.ended);
        if (locked) await session.ask('UNLOCK TABLES;', signal);
      } finally {
        session.close();
      }
    },
  };
}
