/**
 * The doctor for a whole chain: every member alone, then how they stand on each other; and, for who has the time,
 * every packed block unpacked.
 */
import type { BlockSource } from '../block/source.js';
import { AsofError } from '../errors.js';
import type { Chain } from './chain.js';
import type { Finding } from './finding.js';
import type { Image } from './format.js';
import { statedPath } from './lookup.js';
import { checkShadowCopies } from './shadow-points.js';

/** What is wrong with `chain`, from its metadata, member by member. Lazy: stop asking to stop checking. */
export function* check(chain: Chain): Generator<Finding, void, undefined> {
  for (const [i, member] of chain.members.entries()) {
    yield* member.check();
    const below = chain.members[i + 1];
    if (below) yield* links(member, below);
  }
  yield* checkShadowCopies(chain);
}

function* links(image: Image, below: Image): Generator<Finding, void, undefined> {
  const note = (what: string): Finding => ({
    severity: 'note',
    kind: 'chain',
    member: image.file.path,
    what,
    count: 1,
  });
  if (below.size < image.size) {
    yield note(`its parent has ${below.size} bytes: what it does not hold itself behind them reads as zeros`);
  } else if (below.size > image.size) {
    yield note(
      `its parent has ${below.size} bytes: those behind its own ${image.size} are not part of the disk`,
    );
  }
  for (const what of image.parent?.notes?.(below) ?? []) yield note(what);
  if (image.parent?.byIdentity) return;
  const name = image.parent?.name ?? '';
  if (statedPath(name, image.file.path) !== below.file.path) {
    yield note(`it names its parent ${JSON.stringify(name)}, and ${below.file.path} was taken for it`);
  }
  if (image.parent?.format === undefined) yield note('it does not state the format of its parent');
}

/**
 * Unpacks every packed block of a point: `read` is asked for one run after the other, as the engine of the caller
 * reads them, and what it reports as damaged is a defect.
 */
export async function* checkPacked(
  source: BlockSource,
  read: (offset: number, length: number) => Promise<unknown>,
): AsyncGenerator<Finding, void, undefined> {
  let offset = 0;
  for (const run of source.extents(0, source.size)) {
    if (run.kind === 'packed') {
      try {
        await read(offset, run.length);
      } catch (error) {
        if (!(error instanceof AsofError) || error.code !== 'DAMAGED') throw error;
        yield {
          severity: 'defect',
          kind: 'range',
          member: run.file.path,
          what: error.message,
          count: 1,
          range: { offset, length: run.length },
        };
      }
    }
    offset += run.length;
  }
}
