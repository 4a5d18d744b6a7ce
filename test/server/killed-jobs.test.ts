/**
 * A daemon that is killed before a moment takes it along; the next one lets go whoever was told to hold, runs
 * what is due, and says what became of the job (killed.ts).
 */
import t from 'tap';
import { killedDuring } from './killed.js';

t.setTimeout(240_000);

for (const stage of ['BEFORE_BACKUP', 'BEFORE_SNAPSHOT', 'hold']) killedDuring(stage);
