/** As much of tap as the conformance of providers asks for, for a guest that has no packages of development. */
import { deepStrictEqual } from 'node:assert';
import type { Test } from 'tap';

type Work = (t: Test) => Promise<void> | void;

let count = 0;
let failed = 0;
let last: Promise<void> = Promise.resolve();

function result(well: boolean, text: string, found?: unknown, wanted?: unknown): boolean {
  count++;
  if (!well) failed++;
  console.log(`${well ? 'ok' : 'not ok'} ${count} - ${text.replaceAll(/[\n#]/g, ' ')}`);
  if (!well)
    console.log(`# found ${JSON.stringify(found)}, wanted ${String(JSON.stringify(wanted) ?? wanted)}`);
  return well;
}

function matches(found: unknown, wanted: unknown): boolean {
  if (wanted instanceof RegExp) return wanted.test(String(found));
  if (typeof wanted === 'string') return String(found).includes(wanted);
  if (typeof wanted !== 'object' || wanted === null) return found === wanted;
  return Object.entries(wanted).every(([key, value]) =>
    matches((found as Record<string, unknown>)?.[key], value),
  );
}

function equal(found: unknown, wanted: unknown): boolean {
  try {
    deepStrictEqual(found, wanted);
    return true;
  } catch {
    return false;
  }
}

/** Tests run one after the other, in the order in which they are named. */
export function tests(title: string): Test {
  const teardowns: (() => unknown)[] = [];
  const t = {
    test(name: string, work: Work) {
      const inner = tests(`${title}: ${name}`) as Test & { end(): Promise<void> };
      last = last.then(async () => {
        const began = Date.now();
        try {
          await work(inner);
          result(true, `${title}: ${name}`);
        } catch (error) {
          result(false, `${title}: ${name}`, String((error as Error).stack));
        }
        await inner.end();
        console.log(`# ${Math.round((Date.now() - began) / 1000)} s`);
      });
    },
    teardown: (work: () => unknown) => teardowns.push(work),
    async end() {
      for (const work of teardowns.reverse()) {
        try {
          await work();
        } catch (error) {
          result(false, `${title}: teardown`, String(error));
        }
      }
    },
    ok: (found: unknown, text = title) => result(Boolean(found), text, found),
    equal: (found: unknown, wanted: unknown, text = title) => result(found === wanted, text, found, wanted),
    not: (found: unknown, wanted: unknown, text = title) => result(found !== wanted, text, found, wanted),
    same: (found: unknown, wanted: unknown, text = title) =>
      result(equal(found, wanted), text, found, wanted),
    match: (found: unknown, wanted: unknown, text = title) =>
      result(matches(found, wanted), text, found, wanted),
  };
  return t as unknown as Test;
}

/** The end of all: without this line they did not come to it. Resolves to whether all is well. */
export async function allTold(): Promise<boolean> {
  await last;
  console.log(`1..${count}`);
  return failed === 0;
}
