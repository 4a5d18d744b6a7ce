/** Runs of a disk in order, told by where each ends: the search that a walk begins with. */

/** The first that ends behind `offset`; their number where none does. */
export function firstBehind(ends: Float64Array, offset: number): number {
  let low = 0;
  let high = ends.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (ends[middle]! <= offset) low = middle + 1;
    else high = middle;
  }
  return low;
}
