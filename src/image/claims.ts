/**
 * Which places of a file the entries of a table claim. Tables without checksums have no other guard against an entry that
 * became another one: a place that two entries claim is nobody's.
 */

/** Claims that are compared: of a table with more, none are. */
export const MOST_CLAIMS = 2 ** 24;

/** All claims in rising order; none where there are more than MOST_CLAIMS. */
export function sorted(claims: Iterable<Uint32Array>): Uint32Array {
  let all = new Uint32Array(1024);
  let count = 0;
  for (const some of claims) {
    if (count + some.length > MOST_CLAIMS) return new Uint32Array(0);
    if (count + some.length > all.length) {
      const more = new Uint32Array(Math.max(all.length * 2, count + some.length));
      more.set(all);
      all = more;
    }
    all.set(some, count);
    count += some.length;
  }
  return all.subarray(0, count).sort();
}

/** How many of `all` are at least `from` and less than `to`. */
export function within(all: Uint32Array, from: number, to: number): number {
  return firstFrom(all, to) - firstFrom(all, from);
}

function firstFrom(all: Uint32Array, value: number): number {
  let low = 0;
  let high = all.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (all[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
