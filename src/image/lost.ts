/** What of a disk cannot be vouched for, from its map alone: neighbours with one reason are one. */
import type { LayerExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import type { Mapping } from '../block/source.js';
import type { Finding } from './finding.js';

/** A finding each; `file` is the member where a run names none. */
export function* lostRanges(
  disk: Mapping<LayerExtent>,
  file: ImageFile,
): Generator<Finding, void, undefined> {
  let offset = 0;
  let last: { start: number; end: number; why: string; member: string } | undefined;
  const finding = ({ start, end, why, member }: NonNullable<typeof last>): Finding => ({
    severity: 'defect',
    kind: 'range',
    member,
    what: why,
    count: 1,
    range: { offset: start, length: end - start },
  });
  for (const run of disk.extents(0, disk.size)) {
    const end = offset + run.length;
    if (run.kind === 'bad') {
      if (last && last.end === offset && last.why === run.why) last = { ...last, end };
      else {
        if (last) yield finding(last);
        last = { start: offset, end, why: run.why, member: (run.by ?? file).path };
      }
    }
    offset = end;
  }
  if (last) yield finding(last);
}
