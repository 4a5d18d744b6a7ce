/**
 * Segments one behind the other, read as one: split images, and extents of a descriptor.
 */
import type { LayerExtent } from './extent.js';
import { checkRange, type Mapping } from './source.js';

/** One mapping of the sum of the parts' sizes. Closing it closes the parts. */
export function concat<E extends LayerExtent>(parts: readonly Mapping<E>[]): Mapping<E> {
  const starts: number[] = [];
  let size = 0;
  for (const part of parts) {
    starts.push(size);
    size += part.size;
  }
  return {
    size,
    *extents(offset, length) {
      checkRange(size, offset, length);
      const end = offset + length;
      for (let i = partAt(starts, offset); offset < end; i++) {
        const part = parts[i]!;
        const skip = offset - starts[i]!;
        const take = Math.min(part.size - skip, end - offset);
        if (take > 0) yield* part.extents(skip, take);
        offset += take;
      }
    },
    close() {
      for (const part of parts) part.close();
    },
  };
}

/** The last part that begins at or before `offset`. */
function partAt(starts: readonly number[], offset: number): number {
  let low = 0;
  let high = starts.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (starts[middle]! <= offset) low = middle;
    else high = middle;
  }
  return low;
}
