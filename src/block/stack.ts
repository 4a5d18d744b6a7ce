/**
 * A stack of layers: an image over its base, to any depth.
 *
 * Each byte is answered by the uppermost layer that says something of it. Where a layer ends before the one above,
 * the bytes behind its end are zeros to those above it, whatever lies below: a base that has once been smaller must
 * not show through (QEMU, docs/interop/qcow2.rst, "backing file").
 *
 * The walk keeps one cursor a layer, so that a step costs what the layers above the answer cost, and a long run
 * in every layer is one step. Nothing is recursive: a chain of a thousand images needs no deep call stack.
 */
import { type Extent, joined, type LayerExtent, slice } from './extent.js';
import { type BlockSource, checkRange, type Layer, type SectorSize } from './source.js';

/** `layers` with the uppermost first, which gives the size. Closing the stack closes every layer. */
export function stack(layers: readonly Layer[], sectorSize: SectorSize): BlockSource {
  const top = layers[0];
  if (!top) throw new RangeError('a stack has at least one layer');
  const { size } = top;
  return {
    size,
    sectorSize,
    extents(offset, length) {
      checkRange(size, offset, length);
      return joined(walk(layers, offset, length));
    },
    close() {
      for (const layer of layers) layer.close();
    },
  };
}

function* walk(layers: readonly Layer[], offset: number, length: number): Generator<Extent, void, undefined> {
  const end = offset + length;
  const cursors = layers.map(layer => new Cursor(layer, end));
  while (offset < end) {
    const extent = answer(cursors, offset, end - offset);
    yield extent;
    offset += extent.length;
  }
}

/** What the stack says from `offset`, for as long as no layer above the one that answers changes its mind. */
function answer(cursors: readonly Cursor[], offset: number, length: number): Extent {
  for (const cursor of cursors) {
    if (offset >= cursor.size) return { kind: 'zero', length };
    length = Math.min(length, cursor.size - offset);
    cursor.seek(offset);
    length = Math.min(length, cursor.left);
    if (cursor.run.kind !== 'absent') return slice(cursor.run, cursor.skip, length);
  }
  return { kind: 'zero', length };
}

/** Where one layer's walk stands: the run that holds the last offset asked for. */
class Cursor {
  readonly size: number;
  run: LayerExtent = { kind: 'absent', length: 0 };
  /** Bytes of the run before the offset, and from it on. */
  skip = 0;
  left = 0;
  readonly #layer: Layer;
  readonly #end: number;
  #start = -1;
  #runs: Iterator<LayerExtent> | undefined;

  constructor(layer: Layer, end: number) {
    this.#layer = layer;
    this.size = layer.size;
    this.#end = Math.min(end, layer.size);
  }

  /** Offsets never go back. */
  seek(offset: number): void {
    const next = this.#start + this.run.length;
    if (this.#start < 0 || offset > next) {
      this.#runs = this.#layer.extents(offset, this.#end - offset)[Symbol.iterator]();
      this.#take(offset);
    } else if (offset === next) {
      this.#take(offset);
    }
    this.skip = offset - this.#start;
    this.left = this.run.length - this.skip;
  }

  #take(start: number): void {
    const { value, done } = this.#runs!.next();
    if (done) throw new Error(`a layer of ${this.size} bytes gave no run at ${start}`);
    this.run = value;
    this.#start = start;
  }
}
