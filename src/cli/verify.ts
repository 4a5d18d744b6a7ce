/** `asof verify`: whether a history still is what was written. */
import type { Command } from 'commander';
import { AsofError, EXIT } from '../errors.js';
import { type HistoryPoint, openHistory, type Verified, type VerifiedPoint, verify } from '../histories.js';
import { counted, printable } from './columns.js';
import { type JsonFlag, named, withJson } from './options.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { Progress } from './progress.js';
import { humanSize } from './size.js';

/** Defects of a point that people are shown. */
const SHOWN = 20;

interface Flags extends JsonFlag {
  readonly deep?: boolean;
  readonly sample?: readonly [number, number];
}

export function define(command: Command): void {
  withJson(command)
    .argument('<PATH>', 'the folder of a history, or one file of a point in it', named('PATH'))
    .option('--deep', 'read each point as a whole, through its chain, instead of what its own image holds')
    .option(
      '--sample <N/T>',
      'the N-th of T parts: a month of runs with 1/30 to 30/30 walks over all',
      parseSample,
    )
    .addHelpText(
      'after',
      `
Of each point: manifest, chain, hash tree and the image's own tables, and the digest of every cluster that it stores.
What is found is kept beside the point; asof backup then stores again what is damaged, where the source still has it.
The exit status is 3 where anything is wrong.
${examples(['asof verify /backup', 'asof verify /backup --sample 1/30', 'asof verify /backup/data-2026-11-21T10-15-00Z-3f2c91d0.qcow2 --deep'])}`,
    )
    .action(async (path: string, flags: Flags) => {
      const { history, point } = openHistory(path, { catalogue: false });
      const results: VerifiedPoint[] = [];
      const points = point ? [point] : history.points;
      const progress = new Progress('verifying', 0);
      let before = 0;
      try {
        for await (const one of verify(history, points, {
          deep: flags.deep ?? false,
          sample: flags.sample ?? null,
          keep: true,
          progress: (_point, bytes) => progress.at(before + bytes),
        })) {
          before += one.result.bytes;
          results.push(one);
          if (flags.json) continue;
          progress.end();
          await write(forPeople(one.point, one.result));
        }
        const sound =
          results.every(({ result }) => result.sound) &&
          (point !== undefined || history.troubles.length === 0);
        if (!sound) process.exitCode = EXIT.defects;
        const troubles = point ? [] : history.troubles;
        const notKept = results.find(one => one.notKept !== undefined)?.notKept;
        if (flags.json) {
          const told = results.map(({ point: one, result }) => ({
            id: one.manifest.id,
            stem: one.stem,
            ...result,
          }));
          await writeJson({ path: history.path, sound, points: told, troubles, notKept: notKept ?? null });
          return;
        }
        for (const trouble of troubles) await write(`cannot be believed: ${printable(trouble)}\n`);
        await write(
          `${counted(results.length, 'point')}, ${humanSize(before)}: ${sound ? 'sound' : 'DEFECTS'}\n`,
        );
      } finally {
        progress.end();
        history.close();
      }
    });
}

function parseSample(text: string): readonly [number, number] {
  const match = /^(\d{1,6})\/(\d{1,6})$/.exec(text);
  const [part, of] = [Number(match?.[1]), Number(match?.[2])];
  if (match && part >= 1 && part <= of) return [part, of];
  throw new AsofError(
    'USAGE',
    `--sample ${JSON.stringify(text)} is not N/T with N from 1 to T, such as 1/30`,
  );
}

function forPeople(point: HistoryPoint, { sound, bytes, faults, defects }: Verified): string {
  const lines = [`${point.stem}: ${sound ? 'sound' : 'DEFECTS'}, ${humanSize(bytes)}`];
  for (const fault of faults) lines.push(`  ${fault}`);
  for (const { offset, length, why } of defects.slice(0, SHOWN)) {
    lines.push(`  ${length} bytes at ${offset}: ${why}`);
  }
  if (defects.length > SHOWN) lines.push(`  and ${counted(defects.length - SHOWN, 'more run')}`);
  return lines.map(text => `${printable(text)}\n`).join('');
}
