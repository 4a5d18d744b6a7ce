/**
 * The answer of the route `changes`: one JSON document, sent as it is found, an extent a line. A volume may have changed in
 * more places than fit into memory, here or there; what is asked of the engine next waits until this was taken.
 */
import { Readable } from 'node:stream';
import type { ChangedEnd, ChangedExtents } from '../volumes.js';

export function changesDocument({ volume, since, pieces }: ChangedExtents): Readable {
  async function* lines(): AsyncGenerator<string, void, undefined> {
    yield `${JSON.stringify({ volume, since }).slice(0, -1)},"extents":[`;
    let bytes = 0;
    let comma = '';
    for (;;) {
      const { value, done } = await pieces.next();
      if (done) {
        const why = value.why || 'every write since has been tracked';
        const end: ChangedEnd = { ...value, why, bytes };
        yield `\n],${JSON.stringify(end).slice(1)}\n`;
        return;
      }
      let text = '';
      for (let i = 0; i < value.length; i += 2) {
        const [start, length] = [value[i]!, value[i + 1]!];
        bytes += length;
        text += `${comma}\n{"start":${start},"length":${length}}`;
        comma = ',';
      }
      yield text;
    }
  }
  // One piece ahead at most.
  return Readable.from(lines(), { highWaterMark: 1 });
}
