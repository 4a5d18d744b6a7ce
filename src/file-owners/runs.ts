/** Runs of bytes that changed, and how much of them lies in any other run: in the time of a search, however many there are. */

export type Run = readonly [start: number, length: number];

export class ChangedRuns {
  /** Bytes of all of them. */
  readonly bytes: number;
  readonly #starts: Float64Array;
  readonly #ends: Float64Array;
  /** Bytes of the runs before each. */
  readonly #before: Float64Array;

  /** Runs in any order; what two of them have in common counts once. */
  constructor(runs: readonly Run[]) {
    const merged: [number, number][] = [];
    for (const [start, length] of [...runs].sort((a, b) => a[0] - b[0])) {
      if (length <= 0) continue;
      const last = merged.at(-1);
      if (last && start <= last[1]) last[1] = Math.max(last[1], start + length);
      else merged.push([start, start + length]);
    }
    this.#starts = Float64Array.from(merged, ([start]) => start);
    this.#ends = Float64Array.from(merged, ([, end]) => end);
    this.#before = new Float64Array(merged.length);
    let bytes = 0;
    merged.forEach(([start, end], i) => {
      this.#before[i] = bytes;
      bytes += end - start;
    });
    this.bytes = bytes;
  }

  /** Bytes of them within a run. */
  within(start: number, length: number): number {
    return length > 0 ? this.#below(start + length) - this.#below(start) : 0;
  }

  /** What of them lies within a window, counted from its start. */
  window(start: number, length: number): ChangedRuns {
    const runs: Run[] = [];
    for (let i = this.#index(start); i < this.#starts.length && this.#starts[i]! < start + length; i++) {
      const from = Math.max(this.#starts[i]!, start);
      runs.push([from - start, Math.min(this.#ends[i]!, start + length) - from]);
    }
    return new ChangedRuns(runs);
  }

  /** The first run that ends behind `offset`. */
  #index(offset: number): number {
    let [low, high] = [0, this.#ends.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#ends[middle]! > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #below(offset: number): number {
    const i = this.#index(offset);
    if (i === this.#starts.length) return this.bytes;
    return this.#before[i]! + Math.max(0, offset - this.#starts[i]!);
  }
}
