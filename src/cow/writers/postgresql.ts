/**
 * The writer `postgresql`. A checkpoint before the moment makes the recovery after it short. PostgreSQL then goes on
 * writing: what it has committed at the moment, its write-ahead log brings back, provided that data and log are of the same
 * moment. Where the group has more than one volume, or the user says so, it is in backup mode over the moment
 * (pg_backup_start, pg_backup_stop; chapter 26.3 of its manual); the backup label is then kept in the record, and a restore
 * puts it into the data directory as backup_label.
 */
import { AsofError } from '../../errors.js';
import { Session } from './session.js';
import type { WriterKind } from './writer.js';

export const postgresql: WriterKind = {
  name: 'postgresql',
  aliases: ['postgres'],
  settings: {
    host: 'a host, or the folder of the server’s socket',
    port: 'its port',
    user: 'a role that may CHECKPOINT, and start backups',
    database: 'a database to connect to (postgres unless set)',
    passfile: 'a password file (libpq, PGPASSFILE)',
    backup: '`auto` (unless set): backup mode where the group has more than one volume; `always`; `never`',
    psql: 'the program, where it is not found by its name',
  },

  make(settings, { volumes, note }) {
    const { host, port, user, database = 'postgres', passfile, backup = 'auto', psql = 'psql' } = settings;
    if (!['auto', 'always', 'never'].includes(backup)) {
      throw new AsofError('USAGE', `backup cannot be ${JSON.stringify(backup)}`, 'auto, always or never');
    }
    const mode = backup === 'always' || (backup === 'auto' && volumes.length > 1);
    const env = {
      ...(host === undefined ? {} : { PGHOST: host }),
      ...(port === undefined ? {} : { PGPORT: port }),
      ...(user === undefined ? {} : { PGUSER: user }),
      ...(passfile === undefined ? {} : { PGPASSFILE: passfile }),
      PGDATABASE: database,
      PGAPPNAME: 'asof',
    };
    let session: Session | undefined;
    let modern = true;
    let started = false;
    return {
      name: `postgresql ${host ?? ''}${port === undefined ? '' : `:${port}`}`.trim(),
      grants: 'application',

      async prepare(signal) {
        session = new Session({
          argv: [psql, '-X', '-q', '-A', '-t', '-w', '-v', 'ON_ERROR_STOP=1'],
          env,
          sentinel: mark => `\\echo ${mark}`,
        });
        modern = Number(await session.ask('SHOW server_version_num;', signal)) >= 150000;
        await session.ask('CHECKPOINT;', signal);
      },

      async hold(signal) {
        if (!session) throw new Error('it was not prepared');
        if (!mode) return;
        started = true;
        const start = modern
          ? "pg_backup_start('asof', fast => true)"
          : "pg_start_backup('asof', true, false)";
        await session.ask(`SELECT ${start};`, signal);
      },

      async release(signal, taken) {
        if (!session) return;
        try {
          if (session.ended) throw new Error(session.ended);
          if (!started) return;
          const stop = modern ? 'pg_backup_stop(false)' : 'pg_stop_backup(false, false)';
          const label = await session.ask(`SELECT labelfile FROM ${stop};`, signal);
          if (taken) note(label.trim());
        } finally {
          session.close();
        }
      },
    };
  },
};
